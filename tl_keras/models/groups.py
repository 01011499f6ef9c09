"""Layer groups: the parts of a model's body that thaw together, and where features can be watched.

Of a network of keras.applications a group ends where the resolution falls: those are the blocks of
VGG16 and the stages of ResNet50. Of our own small models every convolution and every dense layer is
a group, with the normalisation behind it.
"""

import itertools

import keras

from tl_keras.models import catalog
from tl_keras.models.building import named_body
from tl_keras.models.naming import leaves

KERNELS = (keras.layers.Conv2D, keras.layers.Dense)


def groups(model: keras.Model) -> list[list[str]]:
    """Return the names of the body's layers with weights, group by group, from the images on."""
    body = named_body(model)
    if catalog.find(model.name).function:
        # The largest resolution still to come: side branches that see whole maps fall early.
        sides: list[int] = []
        for layer in body.values():
            # Behind the global pooling is none: ConvNeXt's last normalisation is of its stage.
            sides.append(_side(layer.output) or sides[-1])
        to_come = list(itertools.accumulate(reversed(sides), max))[::-1]
        numbers = [sorted(set(to_come), reverse=True).index(side) for side in to_come]
    else:
        numbers = list(itertools.accumulate(isinstance(one, KERNELS) for one in body.values()))
    return [
        [name for name, _ in members]
        for _, members in itertools.groupby(zip(body, numbers, strict=True), lambda pair: pair[1])
    ]


def steps_from_head(model: keras.Model) -> dict[str, int]:
    """Return, for each layer with weights below the head, which group before the head it is in."""
    return {
        name: distance
        for distance, group in enumerate(reversed(groups(model)), start=1)
        for name in group
    }


def feature_maps(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return the last (batch, height, width, channels) feature map of each group, by its name.

    It is the last of its group's resolution through which all that follows is computed: behind a
    residual sum or a concatenation, not inside its branches. A group without such a map has none.
    """
    operations = model.operations
    body = named_body(model)
    places = {leaf: place for place, op in enumerate(operations) for leaf in leaves(op)}
    grouped = groups(model)
    starts = [min(places[body[name]] for name in group) for group in grouped]
    maps = {}
    passes = all_passes(model)
    for group, (start, end) in zip(
        grouped, itertools.pairwise([*starts, len(operations)]), strict=True
    ):
        side = max(_side(body[name].output) for name in group)
        for place in reversed(range(start, end)):
            output = operations[place].output
            if passes[place] and len(output.shape) == 4 and _side(output) == side:
                maps[group[-1]] = output
                break
    return maps


def all_passes(model: keras.Model) -> list[bool]:
    """Return for each operation whether everything behind it is computed from it alone."""
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
    # Up to where what was computed before each place is still used.
    reach = list(itertools.accumulate(last_use, max, initial=0))
    return [reach[place] <= place for place in range(len(operations))]


def _side(tensor: keras.KerasTensor) -> int:
    return tensor.shape[1] if len(tensor.shape) == 4 else 0
