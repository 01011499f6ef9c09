"""The rows of `tl_keras.methods.catalog`: methods, penalties and pretrainings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from tl_keras.config import Config
from tl_keras.config.terms import Term, format_number
from tl_keras.errors import UsageError

# The default upper bound of strengths.
MAX_STRENGTH = 1e9

# Returns why settings exclude the row, as text that continues the row's flag; '' if they do not.
Refusal = Callable[[Config], str]


def refuse_nothing(config: Config) -> str:
    """Return ''."""
    return ""


class Strength(NamedTuple):
    """A number after the name in a flag, such as 0.1 in l2sp:0.1.

    Attributes:
        default: the default.
        low: the smallest allowed value.
        high: the largest allowed value.
        whole: whether it is a whole number.
    """

    default: float
    low: float = 0.0
    high: float = MAX_STRENGTH
    whole: bool = False


@dataclass(frozen=True)
class Row:
    """The common fields of all rows.

    Attributes:
        name: the name in flags, and of the module in tl_keras.methods.
        summary: the text in `--help`.
        strengths: the numbers after the name, by name, in order.
    """

    name: str
    summary: str
    strengths: Mapping[str, Strength] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """The form in flags, with defaults: l2sp:ALPHA=0.1:BETA=0.01."""
        numbers = [f"{n.upper()}={format_number(s.default)}" for n, s in self.strengths.items()]
        return ":".join([self.name, *numbers])

    def numbers(self, term: Term, flag: str) -> tuple[float, ...]:
        """Return the strengths that a flag gives. Omitted ones have their defaults.

        Args:
            term: a term with this row's name.
            flag: the flag with its value, for errors.

        Raises:
            UsageError: there are too many numbers, or one is out of range.
        """
        allowed = list(self.strengths.values())
        if len(term.numbers) > len(allowed):
            form = ":".join([self.name, *(name.upper() for name in self.strengths)])
            raise UsageError(
                f"{flag}: {self.name} takes at most {len(allowed)} numbers ({form}), and"
                f" {len(term.numbers)} are given"
            )
        for number, strength in zip(term.numbers, allowed, strict=False):
            is_whole = number == int(number)
            if not strength.low <= number <= strength.high or (strength.whole and not is_whole):
                kind = "whole number" if strength.whole else "number"
                raise UsageError(
                    f"{flag}: '{format_number(number)}' is not a {kind} from {strength.low:g} to"
                    f" {strength.high:g}"
                )
        given = [
            int(number) if strength.whole else number
            for number, strength in zip(term.numbers, allowed, strict=False)
        ]
        return (*given, *(one.default for one in allowed[len(given) :]))


@dataclass(frozen=True)
class Penalty(Row):
    """A penalty on the loss of fine-tuning.

    Attributes:
        needs_source: whether it needs a source. The scratch arm leaves such penalties out.
        compares: whether it uses the outputs of the source model.
        needs_head: whether it uses the source's head.
    """

    needs_source: bool = True
    compares: bool = False
    needs_head: bool = False

    @property
    def make(self) -> Callable[..., Any]:
        """The penalty's `make(run, *strengths)`; see tl_keras.methods.penalty."""
        return import_module(f"tl_keras.methods.{self.name}").make


@dataclass(frozen=True)
class Method(Row):
    """A method of transfer.

    Attributes:
        module: the module of tl_keras.methods with its `prepare`; empty: the module of its name.
        copies_weights: whether its model starts from the source's weights.
        needs_source: whether it needs a source.
        needs_head: whether it continues with the source's head.
        streams: the image streams of each step: "target", "source".
        takes: the flags of transfer that it uses; others are refused.
        penalty: a penalty that it adds without `--penalty`.
        unfreeze: its unfreezing schedule without `--unfreeze`.
        refuses: returns why settings exclude the method, or ''.
        head_is_fresh: whether its head copies no rows of the source's head, for any `--head`.
    """

    module: str = ""
    copies_weights: bool = True
    needs_source: bool = True
    needs_head: bool = False
    streams: frozenset[str] = frozenset({"target"})
    takes: frozenset[str] = frozenset()
    penalty: str = ""
    unfreeze: str = "none"
    refuses: Refusal = refuse_nothing
    head_is_fresh: Callable[[Config], bool] = lambda config: False

    @property
    def prepare(self) -> Callable[..., Any]:
        """The method's `prepare(run)`; see tl_keras.methods.interface."""
        return import_module(f"tl_keras.methods.{self.module or self.name}").prepare


@dataclass(frozen=True)
class Pretraining(Row):
    """A pretraining.

    Attributes:
        uses_labels: whether it uses the source's labels.
        refuses: returns why settings exclude the pretraining, or ''.
    """

    uses_labels: bool = False
    refuses: Refusal = refuse_nothing

    @property
    def prepare(self) -> Callable[..., Any]:
        """The pretraining's `prepare(run)`; see tl_keras.methods.interface.

        It returns MethodOutputs if it uses labels, else PretrainingOutputs.
        """
        return import_module(f"tl_keras.methods.{self.name}").prepare
