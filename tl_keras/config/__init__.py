"""The settings of an experiment, their defaults, ranges and help, and the types they are parsed to.

`Config` is frozen. Each of its fields is a command line flag too. A new setting is a new field of
`Config` (config.py) or of `Training` (training.py); `tl_keras.cli.flags` makes the flag of it. What
the settings may not be together stands in `tl_keras.experiment.validate`.

It may import `errors`.
"""

from tl_keras.config.config import PAIRED, Config
from tl_keras.config.flat import from_flat
from tl_keras.config.options import Option, option
from tl_keras.config.training import Training, named_options

__all__ = ["PAIRED", "Config", "Option", "Training", "from_flat", "named_options", "option"]
