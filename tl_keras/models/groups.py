"""Layer groups: the parts of a model's body that are unfrozen together and give feature maps.

In networks of keras.applications, a group ends where the resolution falls: these are the blocks of
VGG16 and the stages of ResNet50. In our own small models, every convolution and every dense layer
is a group, with the normalisation behind it.
"""

import itertools

import keras

from tl_keras.models import catalog
from tl_keras.models.building import named_body

KERNELS = (keras.layers.Conv2D, keras.layers.Dense)


def find_groups(model: keras.Model) -> list[list[str]]:
    """Return the names of the body's layers with weights, by group, in order from the input."""
    body = named_body(model)
    if catalog.find(model.name).function:
        # Use the largest resolution still to come, because side branches may be reduced early.
        sides: list[int] = []
        for layer in body.values():
            # There is no map behind the global pooling: ConvNeXt's last normalisation is in its
            # stage.
            sides.append(map_side(layer.output) or sides[-1])
        to_come = list(itertools.accumulate(reversed(sides), max))[::-1]
        numbers = [sorted(set(to_come), reverse=True).index(side) for side in to_come]
    else:
        numbers = list(itertools.accumulate(isinstance(one, KERNELS) for one in body.values()))
    return [
        [name for name, _ in members]
        for _, members in itertools.groupby(zip(body, numbers, strict=True), lambda pair: pair[1])
    ]


def steps_from_head(model: keras.Model) -> dict[str, int]:
    """Return the distance of each layer's group from the head, 1 for the group next to it."""
    return {
        name: distance
        for distance, group in enumerate(reversed(find_groups(model)), start=1)
        for name in group
    }


def map_side(tensor: keras.KerasTensor) -> int:
    """Return the height of a (batch, height, width, channels) feature map; 0 for other tensors."""
    return tensor.shape[1] if len(tensor.shape) == 4 else 0
