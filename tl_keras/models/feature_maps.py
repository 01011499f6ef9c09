"""The feature maps of a model's layer groups, as additional outputs."""

import itertools

import keras

from tl_keras.models.building import copy_weights, named_body
from tl_keras.models.groups import find_groups, map_side
from tl_keras.models.naming import leaves
from tl_keras.models.operations import use_fused_ops


def with_feature_maps(model: keras.Model) -> keras.Model:
    """Return the same model with another output "maps", the last feature map of each group."""
    return keras.Model(
        model.input,
        {**model.output, "maps": find_feature_maps(model)},
        name=f"{model.name}_watched",
    )


def copy_frozen(model: keras.Model) -> keras.Model:
    """Return a frozen copy of `model` with the same weights and with feature maps."""
    copy = keras.models.clone_model(model)
    for layer, its_copy in zip(model.layers, copy.layers, strict=True):
        copy_weights(layer, its_copy)
    copy.name = model.name
    # The same operations as in the model itself, for bit-identical outputs.
    use_fused_ops(copy)
    copy = with_feature_maps(copy)
    copy.trainable = False
    return copy


def find_feature_maps(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return the last (batch, height, width, channels) feature map of each group, by its name.

    It is the last bottleneck of the group's resolution: behind a residual sum or a concatenation,
    not inside its branches. A group without such a map is left out.
    """
    operations = model.operations
    body = named_body(model)
    places = {leaf: place for place, op in enumerate(operations) for leaf in leaves(op)}
    layer_groups = find_groups(model)
    starts = [min(places[body[name]] for name in group) for group in layer_groups]
    maps = {}
    is_bottleneck = find_bottlenecks(model)
    for group, (start, end) in zip(
        layer_groups, itertools.pairwise([*starts, len(operations)]), strict=True
    ):
        side = max(map_side(body[name].output) for name in group)
        for place in reversed(range(start, end)):
            output = operations[place].output
            if is_bottleneck[place] and len(output.shape) == 4 and map_side(output) == side:
                maps[group[-1]] = output
                break
    return maps


def find_bottlenecks(model: keras.Model) -> list[bool]:
    """Return for each operation whether all later operations depend on its output alone."""
    operations = model.operations
    made_by = {
        id(tensor): place
        for place, operation in enumerate(operations)
        for tensor in keras.tree.flatten(operation.output)
    }
    last_use = list(range(len(operations)))
    for place, operation in enumerate(operations):
        if isinstance(operation, keras.layers.InputLayer):
            continue
        for tensor in keras.tree.flatten(operation.input):
            last_use[made_by[id(tensor)]] = place
    # For each operation, the last use of all outputs before it.
    reach = list(itertools.accumulate(last_use, max, initial=0))
    return [reach[place] <= place for place in range(len(operations))]
