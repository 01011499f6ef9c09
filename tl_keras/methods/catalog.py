"""The transfer methods by name. Light to import: `--help` and the flag checks read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

from tl_keras.config import Config
from tl_keras.errors import UsageError


class Strength(NamedTuple):
    """A number behind a penalty's name.

    Attributes:
        default: where it is not given.
        low: the least that it may be.
        whole: whether it counts something.
    """

    default: float
    low: float = 0.0
    whole: bool = False


@dataclass(frozen=True)
class Penalty:
    """What may be added to the loss of fine-tuning.

    Attributes:
        name: in `--penalty`, and of the module of tl_keras.methods that has its `make`.
        summary: a line for `--help`.
        strengths: the numbers behind its name, by names, in their order.
        needs_source: whether it means nothing without a source.
        compares: whether it asks what the source model makes of each batch.
        needs_head: whether it asks for the source's head too.
    """

    name: str
    summary: str
    strengths: Mapping[str, Strength]
    needs_source: bool = True
    compares: bool = False
    needs_head: bool = False

    @property
    def make(self) -> Callable[..., Any]:
        """The penalty's `make(setting, *strengths)`; see tl_keras.methods.penalty."""
        return import_module(f"tl_keras.methods.{self.name}").make


@dataclass(frozen=True)
class Method:
    """What is known of a method before it runs.

    Attributes:
        name: of the flag.
        summary: a line for `--help`.
        module: of tl_keras.methods, that has its `prepare`; empty for the one called as it is.
        copies_weights: whether its model starts from the source's weights.
        needs_source: whether it means nothing without a source.
        source_images: whether a batch of source images rides along with each target batch.
        penalty: what it adds to the loss, without being named in `--penalty`.
        unfreeze: how it thaws the model, where `--unfreeze` does not say.
    """

    name: str
    summary: str
    module: str = ""
    copies_weights: bool = True
    needs_source: bool = True
    source_images: bool = False
    penalty: str = ""
    unfreeze: str = "none"

    @property
    def prepare(self) -> Callable[..., Any]:
        """The method's `prepare(setting) -> Prepared`; see tl_keras.methods.setting."""
        return import_module(f"tl_keras.methods.{self.module or self.name}").prepare

    @property
    def fine_tunes(self) -> bool:
        """Whether it is fine-tuning, to which penalties can be added."""
        return (self.module or self.name) == "finetune"


PENALTIES = {
    row.name: row
    for row in (
        Penalty(
            "l2", "kernels that train, to zero", {"alpha": Strength(0.0005)}, needs_source=False
        ),
        Penalty(
            "l2sp", "the body to the source's weights, the head to zero",
            {"alpha": Strength(0.1), "beta": Strength(0.01)},
        ),
        Penalty(
            "feature_distance", "the features to those of the source model",
            {"lambda": Strength(0.1)}, compares=True,
        ),
        Penalty(
            "delta", "feature maps to the source's, channels weighted by what they are worth",
            {"alpha": Strength(0.5)}, compares=True,
        ),
        Penalty(
            "bss", "the smallest singular values of a batch's features to zero",
            {"eta": Strength(0.001), "k": Strength(1, low=1, whole=True)}, needs_source=False,
        ),
        Penalty(
            "distill", "what the source's head says, as the source's body made it say",
            {"lambda": Strength(1.0), "temperature": Strength(2.0, low=0.001)}, compares=True,
            needs_head=True,
        ),
    )
}  # fmt: skip

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
        Method(
            "lp_ft",
            "finetune with --unfreeze=lp_ft: the head alone first, then all from that head",
            "finetune",
            unfreeze="lp_ft",
        ),
        Method(
            "gradual",
            "finetune with --unfreeze=gradual: one layer group more in each stage",
            "finetune",
            unfreeze="gradual",
        ),
        Method(
            "scratch",
            "the source's architecture with fresh weights; penalties that need no source stay",
            copies_weights=False,
            needs_source=False,
        ),
        *(
            Method(
                row.name,
                f"finetune with --penalty={row.name}",
                "finetune",
                needs_source=row.needs_source,
                penalty=row.name,
            )
            for row in PENALTIES.values()
        ),
    )
}

# What --pretrain names -> the module of tl_keras.methods that has its `prepare`.
PRETRAININGS = MappingProxyType(
    {"supervised": "supervised", "autoencoder": "autoencoder", "simclr": "simclr"}
)

# How a model may thaw, and how many stages can be given a length.
UNFREEZE = MappingProxyType({"none": 0, "lp_ft": 1, "gradual": 100})

# No strength of a penalty is larger.
MOST = 1e9


def find(name: str) -> Method:
    """Return the method of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"--method={name} is not known; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def pretraining(name: str) -> Callable[..., Any]:
    """Return the `prepare(setting)` of the pretraining of that name.

    It gives Prepared where the labels are used, and Pretraining where they are not; see
    tl_keras.methods.setting.
    """
    return import_module(f"tl_keras.methods.{PRETRAININGS[name]}").prepare


def penalties(config: Config) -> dict[str, tuple[float, ...]]:
    """Return the strengths of each penalty that the method or `--penalty` names.

    Where both name the same, `--penalty` has its strengths.

    Raises:
        UsageError: `--penalty` cannot be read.
    """
    own = find(config.method).penalty
    found = {own: _strengths(own, [], "")} if own else {}
    flag, named = f"--penalty={config.penalty}", set()
    for item in config.penalty.split(",") if config.penalty else ():
        name, *numbers = item.strip().split(":")
        if name not in PENALTIES:
            raise UsageError(f"{flag}: '{name}' is not known; choose of {', '.join(PENALTIES)}")
        if name in named:
            raise UsageError(f"{flag} names {name} twice; leave one of the two out")
        named.add(name)
        found[name] = _strengths(name, numbers, flag)
    return found


def _strengths(name: str, numbers: list[str], flag: str) -> tuple[float, ...]:
    """Return the strengths of a penalty; those that are not given have their defaults."""
    allowed = PENALTIES[name].strengths
    if len(numbers) > len(allowed):
        form = ":".join([name, *(word.upper() for word in allowed)])
        raise UsageError(
            f"{flag}: {name} takes {len(allowed)} at most, {form}, and {len(numbers)} are given"
        )
    given = [
        _number(number, strength.low, MOST, flag, whole=strength.whole)
        for number, strength in zip(numbers, allowed.values(), strict=False)
    ]
    return (*given, *(one.default for one in list(allowed.values())[len(given) :]))


def unfreezing(config: Config) -> tuple[str, tuple[float, ...]]:
    """Return how the model thaws, and the parts of the run that the stages take.

    Raises:
        UsageError: `--unfreeze` cannot be read, or contradicts the method.
    """
    own, flag = find(config.method).unfreeze, f"--unfreeze={config.unfreeze}"
    name, *numbers = config.unfreeze.split(":")
    if name not in UNFREEZE:
        raise UsageError(f"{flag}: '{name}' is not known; choose one of {', '.join(UNFREEZE)}")
    if own not in ("none", name) and name != "none":
        raise UsageError(f"{flag} contradicts --method={config.method}: choose one of the two")
    most = UNFREEZE[name]
    if len(numbers) > most:
        raise UsageError(
            f"{flag}: {name} takes no more than {most} lengths of stages, and {len(numbers)} are"
            " given"
        )
    parts = tuple(_number(number, 0.0, 1.0, flag) for number in numbers)
    if sum(parts) >= 1:
        raise UsageError(
            f"{flag}: the stages take the whole run, and leave nothing for the last; give lengths"
            " that add up to less than 1"
        )
    return (own if name == "none" else name), parts


def _number(text: str, low: float, high: float, flag: str, *, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = low - 1
    # Written so that nan, which compares false with everything, is refused.
    if not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise UsageError(f"{flag}: '{text}' is not a {kind} from {low:g} to {high:g}")
    return value
