"""The settings of a comparison of methods: which of them, and with how many labels."""

import dataclasses

from tl_keras.config.config import Config
from tl_keras.config.options import option

COMPARING = "What to compare"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `python -m tl_keras.compare` compares; see each field's help."""

    methods: str = option(
        "all",
        "comma list of methods, each under its own name or as NAME(FLAG=VALUE;FLAG=VALUE) with"
        " settings of its own, such as features(augment=none) or"
        " strong(method=l2sp;unfreeze=lp_ft); all: every method that these flags allow",
        COMPARING,
    )
    shots: str = option(
        "1,5,10,50,all",
        "comma list of labelled target images a class; all for all of them. A recipe's own"
        " --shots is such a list of one",
        COMPARING,
    )


@dataclasses.dataclass(frozen=True)
class ComparedMethod:
    """One line of the table: a method with its settings; `config.shots` is None."""

    name: str
    config: Config


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """What is to be compared.

    Attributes:
        common: the flags that hold for all; its method is one that needs all that any method needs
            of the source.
        contestants: scratch is not among them, and always runs.
        shots: labels a class, None for all, in the order asked for.
        left_out: name and reason of the methods that do not go with the flags, under `all`.
    """

    common: Config
    compared_methods: tuple[ComparedMethod, ...]
    shots: tuple[int | None, ...]
    left_out: dict[str, str]

    @property
    def debug(self) -> bool:
        """Whether errors show their traceback."""
        return self.common.debug
