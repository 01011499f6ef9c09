"""The settings of an experiment: defaults, ranges, help texts, and the types they are parsed to.

`Config` is frozen. Each of its fields is also a command line flag. A new setting is a new field of
`Config` (config.py) or of `Training` (training.py); `tl_keras.cli.flags` generates the flag from
it. `tl_keras.experiment.validate` checks combinations of settings.

It may import `errors`.
"""

from tl_keras.config.config import PAIRED, Config
from tl_keras.config.flat import from_flat
from tl_keras.config.options import Option, option
from tl_keras.config.tfds import TfdsSelection
from tl_keras.config.training import Training, named_options

__all__ = [
    "PAIRED",
    "Config",
    "Option",
    "TfdsSelection",
    "Training",
    "from_flat",
    "named_options",
    "option",
]
