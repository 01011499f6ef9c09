"""The methods, penalties and pretrainings by name, with what each needs and refuses.

This module is light to import: `--help` and the flag checks use it.
"""

from collections.abc import Iterable
from types import MappingProxyType

from tl_keras.config import Config
from tl_keras.config.terms import Term
from tl_keras.errors import UsageError
from tl_keras.methods.rows import Method, Penalty, Pretraining, Strength

# The flags of transfer that fine-tuning uses.
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
            "l2", "pulls trainable kernels to zero", {"alpha": Strength(0.0005)}, needs_source=False
        ),
        Penalty(
            "l2sp", "pulls the body to the source's weights, and the head to zero",
            {"alpha": Strength(0.1), "beta": Strength(0.01)},
        ),
        Penalty(
            "feature_distance", "pulls the features to those of the source model",
            {"lambda": Strength(0.1)}, compares=True,
        ),
        Penalty(
            "delta", "pulls feature maps to the source's, weighted by channel importance",
            {"alpha": Strength(0.5)}, compares=True,
        ),
        Penalty(
            "bss", "pulls the smallest singular values of a batch's features to zero",
            {"eta": Strength(0.001), "k": Strength(1, low=1, whole=True)}, needs_source=False,
        ),
        Penalty(
            "distill", "keeps the predictions of the source's head (learning without forgetting)",
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
            "train a head on features of the frozen source model, computed once and cached on disk;"
            " a linear head, or an MLP with UNITS hidden units",
            {"units": Strength(0, high=65536, whole=True)},
            takes=frozenset({"trainable", "cached_views"}),
            refuses=_features_refuses,
            # The output layer of an MLP does not fit rows of the source's head.
            head_is_fresh=lambda config: get_strengths("features", config) != (0,),
        ),
        Method(
            "finetune",
            "copy the source's weights, then train the layers of --trainable",
            needs_source=False,
            takes=FINE_TUNING,
        ),
        Method(
            "joint",
            "minimise L_source + LAMBDA L_target on a batch of each per step",
            {"lambda": Strength(1.0)},
            needs_head=True,
            streams=frozenset({"source", "target"}),
            takes=FINE_TUNING - {"penalty"},
        ),
        Method(
            "lp_ft",
            "finetune with --unfreeze=lp_ft: first the head, then all layers",
            module="finetune",
            takes=FINE_TUNING,
            unfreeze="lp_ft",
        ),
        Method(
            "gradual",
            "finetune with --unfreeze=gradual: one more layer group in each stage",
            module="finetune",
            takes=FINE_TUNING,
            unfreeze="gradual",
        ),
        Method(
            "scratch",
            "train the same architecture from initial weights; keeps penalties that need no source",
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
        Pretraining("supervised", "learns the labels", uses_labels=True),
        Pretraining("autoencoder", "learns to reconstruct the image from its features"),
        Pretraining(
            "simclr",
            "learns to match two views of one image among views of others",
            {"temperature": Strength(0.2, low=0.001, high=100)},
            refuses=_simclr_refuses,
        ),
    )
}

# The values of --unfreeze, and how many stage lengths each accepts.
UNFREEZE = MappingProxyType({"none": 0, "lp_ft": 1, "gradual": 100})


def find(method: Term) -> Method:
    """Return the row of a method.

    Raises:
        UsageError: the method is unknown.
    """
    _check_known("method", method, METHODS)
    return METHODS[method.name]


def find_pretraining(pretraining: Term) -> Pretraining:
    """Return the row of a pretraining.

    Raises:
        UsageError: the pretraining is unknown.
    """
    _check_known("pretrain", pretraining, PRETRAININGS)
    return PRETRAININGS[pretraining.name]


def get_strengths(name: str, config: Config) -> tuple[float, ...]:
    """Return the strengths of a method: those in --method if it names this method, or the defaults.

    Raises:
        UsageError: there are too many, or one is out of its range.
    """
    return METHODS[name].numbers(_term_of(name, config.method), f"--method={config.method}")


def get_pretraining_strengths(name: str, config: Config) -> tuple[float, ...]:
    """Return the strengths of a pretraining: those in --pretrain if it names it, or the defaults.

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
        UsageError: a penalty is unknown, a strength is out of range, or both flags give the
            strengths of one penalty.
    """
    method_penalty, flag = find(config.method).penalty, f"--penalty={config.penalty}"
    result = {method_penalty: get_strengths(method_penalty, config)} if method_penalty else {}
    for term in config.penalty:
        _check_known("penalty", term, PENALTIES, flag)
        if term.name == method_penalty and config.method.numbers:
            raise UsageError(
                f"{flag} and --method={config.method} both give the strengths of"
                f" {method_penalty}. Remove one of them"
            )
        result[term.name] = PENALTIES[term.name].numbers(term, flag)
    return result


def get_unfreezing(config: Config) -> Term:
    """Return the unfreezing schedule, with the lengths of its stages as fractions of the run.

    Raises:
        UsageError: `--unfreeze` is unknown, contradicts the method, or leaves no time for the last
            stage.
    """
    method_unfreeze, term = find(config.method).unfreeze, config.unfreeze
    flag = f"--unfreeze={term}"
    _check_known("unfreeze", term, UNFREEZE)
    if method_unfreeze not in ("none", term.name) and term.name != "none":
        raise UsageError(f"{flag} contradicts --method={config.method}. Choose one of the two")
    max_lengths = UNFREEZE[term.name]
    if len(term.numbers) > max_lengths:
        raise UsageError(
            f"{flag}: {term.name} takes at most {max_lengths} stage lengths, and"
            f" {len(term.numbers)} are given"
        )
    for number in term.numbers:
        if not 0 <= number <= 1:
            raise UsageError(f"{flag}: '{number:g}' is not a number from 0 to 1")
    if sum(term.numbers) >= 1:
        raise UsageError(
            f"{flag}: the stages leave no time for the last one. Give lengths that add up to less"
            " than 1"
        )
    return Term(method_unfreeze) if term.name == "none" else term


def _check_known(name: str, term: Term, rows: Iterable[str], flag: str = "") -> None:
    if term.name not in rows:
        flag = flag or f"--{name}={term}"
        raise UsageError(f"{flag}: '{term.name}' is not known. Choose from {', '.join(rows)}")
