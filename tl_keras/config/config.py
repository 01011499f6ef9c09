"""The one frozen configuration of an experiment.

Each field is also a command line flag: its default, help, unit and range stand here once, and
`tl_keras.cli.flags` makes the flag, its check and its `--help` line of them.
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
from tl_keras.config.preprocessing import Preprocessing
from tl_keras.config.shots import format_shots, parse_shots
from tl_keras.config.terms import Names, Term, Terms
from tl_keras.config.trainable import Trainable
from tl_keras.config.training import (
    SCRATCH_PREFIX,
    SOURCE_PREFIX,
    Training,
    named_options,
)

TASK = "What to transfer"
TRANSFER = "How to transfer"
DATA = "Data and model"
RUNNING = "Running"

# A value of --source_seed: a pretraining for each of --seeds, with the same number.
PAIRED = "paired"

# Two runs that differ only in these are the same experiment: seeds are added to a workdir, and
# where it lies or what is printed changes no result.
NOT_PART_OF_THE_EXPERIMENT = (
    *("workdir", "data_dir", "debug", "seeds", "baseline", "source_weights_sha256"),
    *("checkpoint_every", "allow_changed", "deterministic"),
    # What is kept and what is computed anew come to the same.
    "cache_gb",
    # However many share the work, what comes of it is the same.
    *("strategy", "replicas", "startup_timeout"),
    # Whatever it allows, the same pictures are left out: those that cannot be used.
    "max_bad_images",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """All there is to know about an experiment; see each field's help."""

    source: str = option(
        "mnist_5k",
        "dataset to pretrain on, or imagenet, or none (train from scratch only)",
        TASK,
    )
    source_weights: str = option(
        "", "source.weights.h5 of an earlier run, instead of pretraining", TASK
    )
    source_weights_sha256: str = option(
        "",
        "what the sha256 of that file has to be, in 64 hexadecimal digits; empty: not looked at",
        TASK,
        rare=True,
    )
    source_preprocessing: Preprocessing | None = option(
        "auto",
        "what --source_weights expects of pixels: auto (what the file says, else what is usual for"
        " the model), tf, torch, caffe, none, or SCALE:OFFSET, each a number or a,b,c; BGR: :bgr",
        TASK, parse=preprocessing.parse_flag, show=preprocessing.format_flag, rare=True,
    )  # fmt: skip
    target: str = option(
        "digits",
        "dataset to learn: a catalog name, folder:PATH, or any image classification set of tfds",
        TASK,
    )
    shots: int | None = option(
        "all",
        "labelled target images a class: a number, or all",
        TASK, unit="images", low=0, high=1e7, parse=parse_shots, show=format_shots,
    )  # fmt: skip
    seeds: tuple[int, ...] = option(
        (0,),
        "one pair of runs for each: shots, fresh weights, order and augmentation",
        TASK, low=0, high=2**31 - 1,
    )  # fmt: skip
    source_seed: int | str = option(
        0,
        "seed of the pretraining, which all runs share; paired: a pretraining for each of --seeds,"
        " so that the interval covers the luck of the pretraining too",
        TASK, low=0, high=2**31 - 1, choices=(PAIRED,), rare=True,
    )  # fmt: skip
    baseline: bool = option(True, "also train from scratch, with the same images and steps", TASK)

    pretrain: Term = option(
        "supervised",
        "what the source's images teach: supervised (their labels), or, without the labels,"
        " autoencoder or simclr:TEMPERATURE",
        TASK,
        parse=Term.parse,
    )

    method: Term = option(
        "finetune", "how knowledge travels; one of the list below", TRANSFER, parse=Term.parse
    )
    trainable: Trainable = option(
        "all",
        "all, head, last:N (N layers with weights), or a regular expression that is searched in the"
        " layers' names; the head always trains",
        TRANSFER,
        parse=Trainable.parse,
    )
    head: str = option(
        "match",
        "match: classes that the source knows by name keep their row of the head; new: all fresh",
        TRANSFER,
        choices=("match", "new"),
    )
    penalty: Terms = option(
        "",
        "finetune: what is added to the loss, such as l2sp:0.1:0.01,bss:0.001; from the list below",
        TRANSFER,
        parse=Terms.parse,
    )
    unfreeze: Term = option(
        "none",
        "none: all that --trainable names trains from the start; lp_ft: the head first, then the"
        " rest too; gradual: the head first, then one layer group more in each stage. The stages"
        " are equally long, or as long as said, in parts of the run: lp_ft:0.3, gradual:0.2:0.1",
        TRANSFER,
        parse=Term.parse,
    )
    layer_lr_decay: float = option(
        1.0,
        "what the updates of each layer group are multiplied with, once more for each step away"
        " from the head",
        TRANSFER, low=0.001, high=1,
        rare=True,
    )  # fmt: skip
    body_lr_multiplier: float | None = option(
        "auto",
        "what the updates of all but the head are multiplied with; auto: 0.1 for networks of"
        " keras.applications, whose weights training from a fresh head would soon destroy, else 1",
        TRANSFER, low=0.0001, high=1000, rare=True,
        parse=parse_auto_number, show=format_auto_number,
    )  # fmt: skip
    head_lr_multiplier: float = option(
        1.0,
        "what the updates of the head are multiplied with",
        TRANSFER, low=0.001, high=1000, rare=True,
    )  # fmt: skip
    cached_views: int = option(
        0,
        "with --augment, and layers that do not train: how many augmented views of each image there"
        " are, in turn from epoch to epoch, so that what the frozen layers make of them is computed"
        " once; 0: a new view in each epoch, as the scratch arm has in any case",
        TRANSFER, unit="views", low=0, high=1000,
        rare=True,
    )  # fmt: skip
    cache_gb: float = option(
        10.0,
        "most that is added to WORKDIR/features, where frozen parts of models keep what they make"
        " of the images. What finds no room there is computed anew in each step, or once a run by"
        " --method=features, which is refused where its training and validation images alone need"
        " more",
        TRANSFER, unit="gigabytes", low=0, high=1e6,
        rare=True,
    )  # fmt: skip

    model: str = option("small_cnn", "the architecture; one of the list below", DATA)
    dense_units: int = option(
        128,
        "units of the hidden layer of small_cnn and conv4",
        DATA, unit="units", low=1, high=65536,
        rare=True,
    )  # fmt: skip
    image_size: int = option(
        0,
        "side of the images the model sees; 0: the model's own, or the source's",
        DATA, unit="pixels", low=0, high=4096,
    )  # fmt: skip
    framing: str = option(
        "auto",
        "auto: as the catalog has it; mnist: 20 pixels of ink centred in 28, white on black, for"
        " all; none: pictures as they are",
        DATA, choices=("auto", "mnist", "none"), rare=True,
    )  # fmt: skip
    validation: float = option(
        0.1,
        "part of the training images that validates; with --shots it is taken from the shots,"
        " and only where something needs it",
        DATA, low=0, high=0.5,
    )  # fmt: skip
    data_dir: str = option(
        "",
        "tensorflow-datasets folder; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets",
        DATA,
        rare=True,
    )

    max_bad_images: int = option(
        0,
        "folder:PATH: how many corrupt pictures of it are left out, and told in the log; with more"
        " than that, nothing runs",
        DATA, unit="images", low=0, high=1e9,
        rare=True,
    )  # fmt: skip

    training: Training = Training()
    # Without an average, training ends on some step of many, which may be an unlucky one. A
    # Training that is given in Python has the averages that it says, and no others.
    source_training: Training = Training(swa=0.25)
    # None: as on the target.
    scratch_training: Training | None = None

    strategy: str = option(
        "auto",
        "one_device; mirrored: a replica on each local GPU; multi_worker: one on each GPU, or"
        " processor, of each process that TF_CONFIG or Slurm's variables name; tpu; auto:"
        " multi_worker where there is such a cluster, else mirrored from two GPUs on. The ports of"
        " a cluster have no password and no encryption: keep them inside a network that you trust",
        RUNNING,
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    )
    startup_timeout: float = option(
        60.0,
        "multi_worker: how long to wait for the other processes before training",
        RUNNING, unit="seconds", low=1, high=86400,
        rare=True,
    )  # fmt: skip
    replicas: int = option(
        0,
        "replicas that share each batch; 0: one on each GPU. Without GPUs the processor is divided"
        " into as many logical ones, which tries it out and saves no time",
        RUNNING, unit="replicas", low=0, high=1024,
    )  # fmt: skip
    sync_batch_norm: bool = option(
        True,
        "where replicas share a batch, normalise by the statistics of the whole of it, as without"
        " replicas; or else each replica by its own share's, which is sooner",
        RUNNING,
        rare=True,
    )
    workdir: str = option(
        "", "where everything is written; empty: a folder in runs/ named after the task", RUNNING
    )
    checkpoint_every: Pace = option(
        "30s",
        "how often a run's state is saved: after so many steps (200), seconds (30s; more where"
        " saving would take over 2 % of the time), or whichever comes first (200,30s); also at the"
        " end of training, and when the process is told to stop",
        RUNNING, parse=Pace.parse, rare=True,
    )  # fmt: skip
    allow_changed: Names = option(
        "",
        "names of flags, with commas, that may differ from those the workdir was begun with; what"
        " is finished stays as it is",
        RUNNING, parse=Names.parse, rare=True,
    )  # fmt: skip
    precision: str = option(
        "auto",
        "what a model computes in; weights, statistics, logits, losses and the optimizer's state"
        " are in float32 always. auto: what pays on this device for this model; the log says what",
        RUNNING,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    deterministic: bool = option(
        True,
        "on GPUs, have TensorFlow choose operations that give the same bits each time; on"
        " processors they do anyway",
        RUNNING,
        rare=True,
    )
    debug: bool = option(False, "print the traceback of an error", RUNNING, rare=True)

    def __post_init__(self) -> None:
        """Parse what was given as text.

        Raises:
            UsageError: it cannot be read.
        """
        parse_fields(self)

    @property
    def scratch(self) -> Training:
        """How the arm that trains from scratch is trained."""
        return self.scratch_training or self.training

    @property
    def trainings(self) -> dict[str, Training]:
        """Every way in which a model is trained, by what stands before the names of its flags."""
        own = {SCRATCH_PREFIX: self.scratch_training} if self.scratch_training else {}
        return {"": self.training, SOURCE_PREFIX: self.source_training, **own}

    def flat(self) -> dict[str, Any]:
        """Return every setting by the name of its flag: numbers, and text as the flag has it."""
        return {
            name: None if self.is_inherited(name) else to_plain(value, spec)
            for name, spec, value in named_options(self)
        }

    def is_inherited(self, name: str) -> bool:
        """Return whether a flag has no value of its own: scratch is trained as the target is."""
        return self.scratch_training is None and name.startswith(SCRATCH_PREFIX)

    def experiment(self) -> dict[str, Any]:
        """Return the settings that make this another experiment when they change."""
        return {k: v for k, v in self.flat().items() if k not in NOT_PART_OF_THE_EXPERIMENT}
