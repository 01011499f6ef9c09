"""What `auto` means for a run: the values that settings get from the dataset and the model."""

from tl_keras.config import Training
from tl_keras.config.augmentation import Augmentation
from tl_keras.data.dataset import Dataset
from tl_keras.models import catalog as models


def choose_augmentation(dataset: Dataset, training: Training) -> Augmentation:
    """Return the augmentation of training images; `auto` uses that of the dataset."""
    return dataset.augment if training.augment is None else training.augment


def choose_batch_norm(training: Training, model: str, *, has_weights: bool) -> str:
    """Return the statistics that BatchNormalization uses: recomputed, moving or frozen.

    `auto` freezes the statistics of networks of keras.applications. Their weights fit statistics of
    many images, which the batches of a small target would replace at once in training mode.

    Args:
        training: the training settings.
        model: name of the architecture.
        has_weights: whether the model gets the weights of a source. Without them there are no
            statistics to freeze.
    """
    kind = training.batch_norm
    if kind == "auto":
        kind = "frozen" if models.find(model).function else "recomputed"
    return "recomputed" if kind == "frozen" and not has_weights else kind
