"""The settings of a dataset of picture files, as a part of the configuration."""

from dataclasses import dataclass

from tl_keras.config.options import option

PICTURES = "Pictures in files (folder:PATH)"


@dataclass(frozen=True)
class PictureOptions:
    """How the files of `folder:PATH` are read; see each field's help."""

    fit: str = option(
        "crop",
        "how pictures of different sizes become squares: crop cuts out the centre, as ImageNet"
        " weights were trained with; pad adds black borders; stretch changes the aspect ratio",
        PICTURES, choices=("crop", "pad", "stretch"),
    )  # fmt: skip
    max_bad_images: int = option(
        0,
        "limit of corrupt pictures that are left out and named in the log. More are an error",
        PICTURES, unit="pictures", low=0, high=1e9, rare=True,
    )  # fmt: skip
    max_pixels: int = option(
        50_000_000,
        "limit of the pixels of a picture, which bounds the memory for decoding it",
        PICTURES, unit="pixels", low=1, high=4e9, rare=True,
    )  # fmt: skip
    check_pictures: str = option(
        "auto",
        "what is checked before training. all decodes every picture; headers reads the"
        " headers alone; auto: headers if pictures are streamed, else all",
        PICTURES, choices=("auto", "all", "headers"), rare=True,
    )  # fmt: skip
    stream_pictures: str = option(
        "auto",
        "decode pictures during training. auto: only if they fit neither into"
        " --picture_cache_gb nor into half of the memory. The results are the same",
        PICTURES, choices=("auto", "always", "never"), rare=True,
    )  # fmt: skip
    picture_cache: str = option(
        "",
        "folder of decoded pictures, which later commands with any workdir read in place of the"
        " files; empty: $XDG_CACHE_HOME/tl_keras/pictures or ~/.cache/tl_keras/pictures",
        PICTURES, rare=True,
    )  # fmt: skip
    picture_cache_gb: float = option(
        20.0,
        "limit of --picture_cache. The pictures that were not used for longest are removed. 0: keep"
        " no decoded pictures",
        PICTURES, unit="gigabytes", low=0, high=1e6, rare=True,
    )  # fmt: skip
