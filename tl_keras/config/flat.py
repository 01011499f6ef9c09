"""Conversion of settings by flag name into a Config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tl_keras.config.config import Config
from tl_keras.config.shots import ALL
from tl_keras.config.terms import Term
from tl_keras.config.tfds import SELECTIONS
from tl_keras.config.training import SCRATCH_PREFIX, SOURCE_PREFIX, override


def from_flat(values: dict[str, Any]) -> Config:
    """Build a Config from settings by flag name. Other settings keep their defaults."""
    own_names = {field.name for field in dataclasses.fields(Config)}
    training = override(Config.training, "", values)
    scratch_values = {
        n: v for n, v in values.items() if n.startswith(SCRATCH_PREFIX) and v is not None
    }
    # --steps overrides --epochs. The target's steps must not override epochs given for scratch.
    by_epochs = f"{SCRATCH_PREFIX}epochs" in scratch_values
    start = dataclasses.replace(training, steps=0) if by_epochs else training
    scratch = override(start, SCRATCH_PREFIX, scratch_values)
    # --source_ema replaces the default --source_swa: both together are refused.
    averages = values.get(f"{SOURCE_PREFIX}ema")
    source = Config.source_training
    source = dataclasses.replace(source, swa=0.0) if averages else source
    return Config(
        **{name: value for name, value in values.items() if name in own_names},
        training=training,
        source_training=override(source, SOURCE_PREFIX, values),
        scratch_training=scratch if scratch != training else None,
        **{
            name: override(getattr(Config, name), prefix, values)
            for name, prefix in SELECTIONS.items()
        },
    )


def rename_old_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an earlier version under the present flag names.

    In that version the strengths of methods had separate flags, and --shots=0 meant all labels.
    """
    new = dict(settings)
    joint, head = new.pop("joint_lambda", 1), new.pop("feature_head", "linear")
    units, temperature = new.pop("feature_units", 0), new.pop("temperature", 0.2)
    if new.get("method") == "joint" and joint != 1:
        new["method"] = str(Term("joint", (joint,)))
    if new.get("method") == "features" and head == "mlp":
        new["method"] = str(Term("features", (units,)))
    if new.get("pretrain") == "simclr" and temperature != 0.2:
        new["pretrain"] = str(Term("simclr", (temperature,)))
    if "joint_lambda" in settings and new.get("shots") == 0:
        new["shots"] = ALL
    return new
