"""Releases the memory of models that are no longer used."""

import contextlib
import gc
from collections.abc import Iterator

from tensorflow.python.framework import ops


@contextlib.contextmanager
def release_models() -> Iterator[None]:
    """Release the memory of all models made inside the context; they must not be used afterwards.

    Their graphs form reference cycles. TensorFlow's registry of custom gradients, such as that of
    the sum over replicas, also keeps references to the graphs, the weights and the optimizer.
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
