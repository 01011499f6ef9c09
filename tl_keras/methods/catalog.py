"""The transfer methods by name. Light to import: `--help` and the flag checks read it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tl_keras.errors import UsageError


@dataclass(frozen=True)
class Method:
    """What is known of a method before it runs.

    Attributes:
        name: of the flag, and of the module of tl_keras.methods that has its `prepare`.
        summary: a line for `--help`.
        copies_weights: whether its model starts from the source's weights.
        needs_source: whether it means nothing without a source.
        source_images: whether a batch of source images rides along with each target batch.
    """

    name: str
    summary: str
    copies_weights: bool = True
    needs_source: bool = True
    source_images: bool = False

    @property
    def prepare(self) -> Callable[..., Any]:
        """The method's `prepare(setting) -> Prepared`; see tl_keras.methods.setting."""
        return import_module(f"tl_keras.methods.{self.name}").prepare


METHODS = {
    method.name: method
    for method in (
        Method(
            "features",
            "a new head on features of the frozen source model, computed once and kept on disk",
        ),
        Method(
            "finetune",
            "copy the source's weights, then train what --trainable names",
            needs_source=False,
        ),
        Method("joint", "L_source + lambda L_target, a batch of each a step", source_images=True),
        Method("l2sp", "finetune, with a penalty on the distance to the source's weights"),
        Method(
            "scratch",
            "the source's architecture alone, with fresh weights",
            copies_weights=False,
            needs_source=False,
        ),
    )
}


def find(name: str) -> Method:
    """Return the method of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"--method={name} is not known; choose one of {', '.join(METHODS)}")
    return METHODS[name]
