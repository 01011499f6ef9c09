"""The one frozen configuration of an experiment.

Each field is also a command line flag. The field defines default, help, unit and range, and
`tl_keras.cli.flags` generates the flag, its check and its line of `--help` from them.
"""

import dataclasses
from typing import Any

from tl_keras.config import preprocessing
from tl_keras.config.options import (
    format_auto_number,
    option,
    parse_auto_number,
    parse_fields,
    to_plain,
)
from tl_keras.config.pace import Pace
from tl_keras.config.pictures import PictureOptions
from tl_keras.config.preprocessing import Preprocessing
from tl_keras.config.resume import NOT_PART_OF_THE_EXPERIMENT
from tl_keras.config.shots import format_shots, parse_shots
from tl_keras.config.terms import Names, Term, Terms
from tl_keras.config.tfds import DATA, TfdsSelection
from tl_keras.config.trainable import Trainable
from tl_keras.config.training import (
    SCRATCH_PREFIX,
    SOURCE_PREFIX,
    Training,
    named_options,
)

TASK = "What to transfer"
TRANSFER = "How to transfer"
RUNNING = "Running"

# A value of --source_seed: a separate pretraining for each of --seeds, with the same seed.
PAIRED = "paired"


@dataclasses.dataclass(frozen=True)
class Config(PictureOptions):
    """All settings of an experiment; see each field's help."""

    source: str = option(
        "mnist_5k",
        "dataset to pretrain on; or imagenet; or none: train from scratch only",
        TASK,
    )
    source_weights: str = option(
        "",
        "weights file to transfer, such as source.weights.h5 of a run; replaces pretraining",
        TASK,
    )
    source_weights_sha256: str = option(
        "",
        "expected sha256 of --source_weights, 64 hexadecimal digits; empty: not checked",
        TASK,
        rare=True,
    )
    source_preprocessing: Preprocessing | None = option(
        "auto",
        "preprocessing that --source_weights was trained with: auto (as the file says, else the"
        " model's usual one), tf, torch, caffe, none, or SCALE:OFFSET, each a number or a,b,c, with"
        " :bgr at the end for BGR",
        TASK, parse=preprocessing.parse_flag, show=preprocessing.format_flag, rare=True,
    )  # fmt: skip
    target: str = option(
        "digits",
        "dataset to learn: a catalog name, folder:PATH, csv:FILE, or any image classification set"
        " of tfds",
        TASK,
    )
    shots: int | None = option(
        "all",
        "labelled target images per class: a number, or all",
        TASK, unit="images", low=0, high=1e7, parse=parse_shots, show=format_shots,
    )  # fmt: skip
    seeds: tuple[int, ...] = option(
        (0,),
        "a pair of runs for each seed; it draws shots, initial weights, order and augmentation",
        TASK, low=0, high=2**31 - 1,
    )  # fmt: skip
    source_seed: int | str = option(
        0,
        "seed of the pretraining that all runs share; paired: a pretraining for each of --seeds, so"
        " that the interval includes the variance of pretraining",
        TASK, low=0, high=2**31 - 1, choices=(PAIRED,), rare=True,
    )  # fmt: skip
    baseline: bool = option(True, "also train from scratch with the same images and steps", TASK)

    pretrain: Term = option(
        "supervised",
        "pretraining: supervised (with the source's labels), or without labels: autoencoder,"
        " simclr:TEMPERATURE",
        TASK,
        parse=Term.parse,
    )

    method: Term = option(
        "finetune", "method of transfer, from the list below", TRANSFER, parse=Term.parse
    )
    trainable: Trainable = option(
        "all",
        "layers that train: all, head, last:N (N layers with weights), or a regular expression that"
        " is searched in the layer names; the head always trains",
        TRANSFER,
        parse=Trainable.parse,
    )
    head: str = option(
        "match",
        "match: classes with the same name in the source keep their head row; new: all rows are"
        " initialised",
        TRANSFER,
        choices=("match", "new"),
    )
    penalty: Terms = option(
        "",
        "penalties to add to the loss, such as l2sp:0.1:0.01,bss:0.001, from the list below",
        TRANSFER,
        parse=Terms.parse,
    )
    unfreeze: Term = option(
        "none",
        "none: all layers of --trainable train from the start; lp_ft: first the head, then all;"
        " gradual: first the head, then one more layer group in each stage. Stages are equally"
        " long, or take the given fractions of the run: lp_ft:0.3, gradual:0.2:0.1",
        TRANSFER,
        parse=Term.parse,
    )
    layer_lr_decay: float = option(
        1.0,
        "factor of the updates of a layer group, to the power of its distance from the head",
        TRANSFER, low=0.001, high=1,
        rare=True,
    )  # fmt: skip
    body_lr_multiplier: float | None = option(
        "auto",
        "factor of the updates of the body; auto: 0.1 for networks of keras.applications that are"
        " transferred, because gradients of a fresh head distort pretrained weights, else 1",
        TRANSFER, low=0.0001, high=1000, rare=True,
        parse=parse_auto_number, show=format_auto_number,
    )  # fmt: skip
    head_lr_multiplier: float = option(
        1.0,
        "factor of the updates of the head",
        TRANSFER, low=0.001, high=1000, rare=True,
    )  # fmt: skip
    cached_views: int = option(
        0,
        "with --augment and frozen layers: augmented views per image. The epochs use them in turn,"
        " and the outputs of the frozen layers are computed once per view. 0: a new view in each"
        " epoch, as always in the scratch arm",
        TRANSFER, unit="views", low=0, high=1000,
        rare=True,
    )  # fmt: skip
    cache_gb: float = option(
        10.0,
        "limit of WORKDIR/features, the cache of outputs of frozen layers. Outputs beyond it are"
        " recomputed in each step, or once per run with --method=features, which needs room for the"
        " features of its training and validation images",
        TRANSFER, unit="gigabytes", low=0, high=1e6,
        rare=True,
    )  # fmt: skip

    model: str = option("small_cnn", "architecture, from the list below", DATA)
    dense_units: int = option(
        128,
        "units of the hidden layer of small_cnn and conv4",
        DATA, unit="units", low=1, high=65536,
        rare=True,
    )  # fmt: skip
    image_size: int = option(
        0,
        "side of the model's input images; 0: the default of the model, or the size of the source",
        DATA, unit="pixels", low=0, high=4096,
    )  # fmt: skip
    framing: str = option(
        "auto",
        "auto: as in the dataset's catalog row; mnist: for all datasets, white on black with 20"
        " pixels of ink centred in 28; none: images as they are",
        DATA, choices=("auto", "mnist", "none"), rare=True,
    )  # fmt: skip
    validation: float = option(
        0.1,
        "fraction of the training images that is used for validation. With --shots it is taken from"
        " the shots, and only if a flag needs a validation set",
        DATA, low=0, high=0.5,
    )  # fmt: skip
    data_dir: str = option(
        "",
        "tensorflow-datasets folder; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets",
        DATA,
        rare=True,
    )

    tfds: TfdsSelection = TfdsSelection()
    source_tfds: TfdsSelection = TfdsSelection()

    training: Training = Training()
    # With a constant learning rate the last step's weights vary; an average reduces that. A
    # Training that is given in Python has only the averages that it names.
    source_training: Training = Training(swa=0.25)
    # None: the same as `training`.
    scratch_training: Training | None = None

    strategy: str = option(
        "auto",
        "one_device; mirrored: a replica on each local GPU; multi_worker: a replica on each GPU, or"
        " processor, of each process that TF_CONFIG or Slurm's variables name; tpu; auto:"
        " multi_worker in such a cluster, mirrored with two GPUs or more, else one_device. The"
        " ports of a cluster have no password and no encryption: keep them in a trusted network",
        RUNNING,
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    )
    startup_timeout: float = option(
        60.0,
        "multi_worker: how long to wait at the start for the other processes",
        RUNNING, unit="seconds", low=1, high=86400,
        rare=True,
    )  # fmt: skip
    replicas: int = option(
        0,
        "replicas that share each batch; 0: one on each GPU. Without GPUs the processor is divided"
        " into that many logical devices, which is a test mode and not faster",
        RUNNING, unit="replicas", low=0, high=1024,
    )  # fmt: skip
    sync_batch_norm: bool = option(
        True,
        "with several replicas, BatchNormalization uses the statistics of the whole batch, as"
        " without replicas. Otherwise each replica uses its own share, which is faster",
        RUNNING,
        rare=True,
    )
    workdir: str = option(
        "", "folder for all output; empty: a folder in runs/ named after the task", RUNNING
    )
    checkpoint_every: Pace = option(
        "30s",
        "interval between checkpoints: steps (200), seconds (30s; longer if saving would take over"
        " 2 % of the time), or whichever comes first (200,30s). A checkpoint is also made at the"
        " end of training and on a stop signal",
        RUNNING, parse=Pace.parse, rare=True,
    )  # fmt: skip
    allow_changed: Names = option(
        "",
        "comma list of flags that may differ from those the workdir was created with; finished runs"
        " are kept as they are",
        RUNNING, parse=Names.parse, rare=True,
    )  # fmt: skip
    precision: str = option(
        "auto",
        "compute dtype of the model. Weights, statistics, logits, losses and optimizer state are"
        " always float32. auto: the fastest choice for this device and model; the log names it",
        RUNNING,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    deterministic: bool = option(
        True,
        "use deterministic TensorFlow operations on GPUs; on processors they always are",
        RUNNING,
        rare=True,
    )
    debug: bool = option(False, "print the traceback of an error", RUNNING, rare=True)

    def __post_init__(self) -> None:
        """Parse the fields that are given as text.

        Raises:
            UsageError: a text cannot be parsed.
        """
        parse_fields(self)

    @property
    def scratch(self) -> Training:
        """The training settings of the scratch arm."""
        return self.scratch_training or self.training

    @property
    def trainings(self) -> dict[str, Training]:
        """All training settings, by the prefix of their flags."""
        scratch = {SCRATCH_PREFIX: self.scratch_training} if self.scratch_training else {}
        return {"": self.training, SOURCE_PREFIX: self.source_training, **scratch}

    def flat(self) -> dict[str, Any]:
        """Return every setting by flag name, as a number or as the flag's text."""
        return {
            name: None if self.is_inherited(name) else to_plain(value, spec)
            for name, spec, value in named_options(self)
        }

    def is_inherited(self, name: str) -> bool:
        """Return whether a --scratch_ flag inherits its value from the target's training."""
        return self.scratch_training is None and name.startswith(SCRATCH_PREFIX)

    def experiment(self) -> dict[str, Any]:
        """Return the settings that define the experiment: changing one makes another experiment."""
        return {k: v for k, v in self.flat().items() if k not in NOT_PART_OF_THE_EXPERIMENT}
