"""The flags of a dataset of picture files."""

from dataclasses import dataclass, fields
from typing import Any, Self

from tl_keras.config.config import Config
from tl_keras.pictures import limits


@dataclass(frozen=True)
class PictureOptions:
    """The settings of `config.Config` with these names; see their help.

    Attributes:
        fit: how pictures become squares.
        max_bad_images: how many unusable pictures are left out.
        max_pixels: limit of the pixels of a file.
        check_pictures: "all" decodes every picture before training, "headers" does not; "auto" is
            "headers" where pictures are decoded during training.
        stream_pictures: "always", "never" or "auto" decodes pictures during training.
        picture_cache: folder of decoded pictures; empty for that of the user.
        picture_cache_gb: its limit.
    """

    fit: str = "crop"
    max_bad_images: int = 0
    max_pixels: int = limits.MAX_PIXELS
    check_pictures: str = "auto"
    stream_pictures: str = "auto"
    picture_cache: str = ""
    picture_cache_gb: float = 20.0

    @classmethod
    def from_config(cls, config: Config, **changes: Any) -> Self:
        """Return the options of a configuration."""
        values = {field.name: getattr(config, field.name) for field in fields(cls)}
        return cls(**{**values, **changes})
