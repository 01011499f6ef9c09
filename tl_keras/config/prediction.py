"""The settings of `python -m tl_keras.predict`."""

import dataclasses

from tl_keras.config.options import option

PREDICTING = "What to predict"
OUTPUT = "Output"


@dataclasses.dataclass(frozen=True)
class PredictionOptions:
    """The flags of `python -m tl_keras.predict`; see each field's help."""

    model: str = option(
        "",
        "workdir, run's folder or model.keras; of a workdir, the transfer that validates best. A"
        " comma list: the mean of the probabilities of several models",
        PREDICTING,
    )
    true: bool = option(
        False,
        "the pictures lie in folders that are named after their classes: also give the accuracy",
        PREDICTING,
    )
    top: int = option(3, "classes per picture", OUTPUT, unit="classes", low=1, high=1000)
    json: bool = option(False, "print one JSON object per line", OUTPUT)
    csv: str = option("", "file for the probabilities of all classes, as CSV", OUTPUT)
    embeddings: str = option("", "file for the features before the head, as NumPy's .npz", OUTPUT)
    max_pixels: int = option(
        50_000_000,
        "limit of the pixels of a picture, which bounds the memory for decoding it",
        PREDICTING, unit="pixels", low=1, high=4e9, rare=True,
    )  # fmt: skip
    debug: bool = option(False, "print the traceback of an error", OUTPUT, rare=True)
