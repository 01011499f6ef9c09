"""The methods, penalties and pretrainings by name, and what each of them needs and refuses.

Light to import: `--help` and the flag checks read it.
"""

from collections.abc import Iterable
from types import MappingProxyType

from tl_keras.config import Config
from tl_keras.config.terms import Term
from tl_keras.errors import UsageError
from tl_keras.methods.rows import Method, Penalty, Pretraining, Strength

# The flags of the transfer that fine-tuning heeds.
FINE_TUNING = frozenset(
    {
        *("trainable", "unfreeze", "layer_lr_decay", "body_lr_multiplier", "head_lr_multiplier"),
        *("cached_views", "penalty"),
    }
)


def _features_refuses(config: Config) -> str:
    if config.trainable.kind not in ("all", "head"):
        return (
            f"trains a head on frozen features, and --trainable={config.trainable} names other"
            " layers. Remove --trainable, or choose --method=finetune"
        )
    augmentation = config.training.augment
    changes = augmentation is None or not augmentation.is_identity
    if changes and not config.cached_views:
        return (
            "computes the features of each image once, and"
            f" --augment={config.flat()['augment']} changes the images in each epoch. Remove"
            " --augment, or give --cached_views, such as 10"
        )
    return ""


def _simclr_refuses(config: Config) -> str:
    training = config.source_training
    if training.augment is not None and training.augment.is_identity:
        return (
            "compares two views of each image, and with"
            f" --source_augment={training.augment} they are the same. Choose"
            " --source_augment=auto, or a list such as shift:0.15,rotate:0.05,zoom:0.25"
        )
    if training.batch_size == 1:
        return (
            "compares each image with the others of its batch, and --source_batch_size=1 leaves"
            " none. Take 2 or more, such as 256"
        )
    return ""


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
            "a head on features of the frozen source model, computed once and kept on disk; linear,"
            " or an MLP with UNITS hidden units",
            {"units": Strength(0, high=65536, whole=True)},
            takes=frozenset({"trainable", "cached_views"}),
            refuses=_features_refuses,
            # An MLP has no place for a row of the source's head.
            head_is_fresh=lambda config: get_strengths("features", config) != (0,),
        ),
        Method(
            "finetune",
            "copy the source's weights, then train what --trainable names",
            needs_source=False,
            takes=FINE_TUNING,
        ),
        Method(
            "joint",
            "L_source + LAMBDA L_target, a batch of each a step",
            {"lambda": Strength(1.0)},
            needs_head=True,
            streams=frozenset({"source", "target"}),
            takes=FINE_TUNING - {"penalty"},
        ),
        Method(
            "lp_ft",
            "finetune with --unfreeze=lp_ft: the head alone first, then all from that head",
            module="finetune",
            takes=FINE_TUNING,
            unfreeze="lp_ft",
        ),
        Method(
            "gradual",
            "finetune with --unfreeze=gradual: one layer group more in each stage",
            module="finetune",
            takes=FINE_TUNING,
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
                row.strengths,
                module="finetune",
                needs_source=row.needs_source,
                takes=FINE_TUNING,
                penalty=row.name,
            )
            for row in PENALTIES.values()
        ),
    )
}

PRETRAININGS = {
    row.name: row
    for row in (
        Pretraining("supervised", "the labels", uses_labels=True),
        Pretraining("autoencoder", "to rebuild the image from its features"),
        Pretraining(
            "simclr",
            "to tell two views of one image from those of others",
            {"temperature": Strength(0.2, low=0.001, high=100)},
            refuses=_simclr_refuses,
        ),
    )
}

# How a model may thaw, and how many stages can be given a length.
UNFREEZE = MappingProxyType({"none": 0, "lp_ft": 1, "gradual": 100})


def find(method: Term) -> Method:
    """Return the row of a method.

    Raises:
        UsageError: there is none.
    """
    _check_known("method", method, METHODS)
    return METHODS[method.name]


def find_pretraining(pretraining: Term) -> Pretraining:
    """Return the row of a pretraining.

    Raises:
        UsageError: there is none.
    """
    _check_known("pretrain", pretraining, PRETRAININGS)
    return PRETRAININGS[pretraining.name]


def get_strengths(name: str, config: Config) -> tuple[float, ...]:
    """Return the numbers of a method: those of --method where it names this one, or its defaults.

    Raises:
        UsageError: there are too many, or one is out of its range.
    """
    return METHODS[name].numbers(_term_of(name, config.method), f"--method={config.method}")


def get_pretraining_strengths(name: str, config: Config) -> tuple[float, ...]:
    """Return the numbers of a pretraining: those of --pretrain, likewise.

    Raises:
        UsageError: there are too many, or one is out of its range.
    """
    given = _term_of(name, config.pretrain)
    return PRETRAININGS[name].numbers(given, f"--pretrain={config.pretrain}")


def _term_of(name: str, given: Term) -> Term:
    return given if given.name == name else Term(name)


def get_penalties(config: Config) -> dict[str, tuple[float, ...]]:
    """Return the strengths of each penalty that the method or `--penalty` names.

    Raises:
        UsageError: a penalty is not known, a strength is out of its range, or both flags give the
            strengths of one penalty.
    """
    own, flag = find(config.method).penalty, f"--penalty={config.penalty}"
    found = {own: get_strengths(own, config)} if own else {}
    for term in config.penalty:
        _check_known("penalty", term, PENALTIES, flag)
        if term.name == own and config.method.numbers:
            raise UsageError(
                f"{flag} and --method={config.method} both give the strengths of {own}. Remove one"
                " of them"
            )
        found[term.name] = PENALTIES[term.name].numbers(term, flag)
    return found


def get_unfreezing(config: Config) -> Term:
    """Return how the model thaws, and the parts of the run that the stages take.

    Raises:
        UsageError: `--unfreeze` names what is not known, contradicts the method, or leaves no time
            for the last stage.
    """
    own, term = find(config.method).unfreeze, config.unfreeze
    flag = f"--unfreeze={term}"
    _check_known("unfreeze", term, UNFREEZE)
    if own not in ("none", term.name) and term.name != "none":
        raise UsageError(f"{flag} contradicts --method={config.method}. Choose one of the two")
    most = UNFREEZE[term.name]
    if len(term.numbers) > most:
        raise UsageError(
            f"{flag}: {term.name} takes no more than {most} lengths of stages, and"
            f" {len(term.numbers)} are given"
        )
    for number in term.numbers:
        if not 0 <= number <= 1:
            raise UsageError(f"{flag}: '{number:g}' is not a number from 0 to 1")
    if sum(term.numbers) >= 1:
        raise UsageError(
            f"{flag}: the stages take the whole run, and leave nothing for the last. Give lengths"
            " that add up to less than 1"
        )
    return Term(own) if term.name == "none" else term


def _check_known(name: str, term: Term, rows: Iterable[str], flag: str = "") -> None:
    if term.name not in rows:
        flag = flag or f"--{name}={term}"
        raise UsageError(f"{flag}: '{term.name}' is not known. Choose of {', '.join(rows)}")
