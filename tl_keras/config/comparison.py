"""The settings of a comparison of methods: which methods, and how many labels."""

import dataclasses

from tl_keras.config.config import Config
from tl_keras.config.options import option

COMPARING = "What to compare"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The flags of `python -m tl_keras.compare` itself; see each field's help."""

    methods: str = option(
        "all",
        "comma list of methods, each as NAME or, with settings of its own, as"
        " NAME(FLAG=VALUE;FLAG=VALUE): features(augment=none),"
        " joint:0.5, strong(method=l2sp;unfreeze=lp_ft). all: every method that the other flags"
        " allow",
        COMPARING,
    )
    shots: str = option(
        "1,5,10,50,all",
        "comma list of numbers of labelled target images per class; all: every image. The --shots"
        " of a recipe is a list of one",
        COMPARING,
    )


@dataclasses.dataclass(frozen=True)
class ComparedMethod:
    """One row of the table: a method with its settings; `config.shots` is None."""

    name: str
    config: Config


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """The checked settings of a comparison.

    Attributes:
        common: the shared flags. Its method needs everything that any compared method needs from
            the source.
        compared_methods: the methods without scratch, which always runs.
        shots: numbers of labels per class in the given order, None for all.
        left_out: under `all`, the methods that these flags exclude, each with the reason.
    """

    common: Config
    compared_methods: tuple[ComparedMethod, ...]
    shots: tuple[int | None, ...]
    left_out: dict[str, str]

    @property
    def debug(self) -> bool:
        """Whether errors print their traceback."""
        return self.common.debug
