"""The memory of models that are no longer used."""

import contextlib
import gc
from collections.abc import Iterator

from tensorflow.python.framework import ops


@contextlib.contextmanager
def release_models() -> Iterator[None]:
    """Give back the memory of the models that were made inside; nothing may use them any more.

    Their graphs refer to each other. TensorFlow also keeps for good whatever a graph brought a
    gradient of its own for, such as the sum over the replicas, and with it the graph and the
    weights, the optimizer's too.
    """
    gradients = ops.gradient_registry._registry
    before = set(gradients)
    try:
        yield
    finally:
        for name in set(gradients) - before:
            if name.startswith("CustomGradient-"):
                del gradients[name]
        gc.collect()
