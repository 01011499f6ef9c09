"""The settings of a dataset of picture files, as a part of the configuration."""

from dataclasses import dataclass

from tl_keras.config.csv_columns import CsvColumns
from tl_keras.config.options import option

PICTURES = "Pictures in files (folder:PATH and csv:FILE)"


@dataclass(frozen=True)
class PictureOptions:
    """How the files of `folder:PATH` and `csv:FILE` are read; see each field's help."""

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
    on_duplicates: str = option(
        "warn",
        "copies of a picture. warn names them in the log and in WORKDIR/data_report.json; drop"
        " leaves out those that a test picture is a copy of, and further copies in the training"
        " split; error ends the program",
        PICTURES, choices=("warn", "drop", "error"),
    )  # fmt: skip
    follow_links: bool = option(
        False,
        "read files outside of the folder too, by links or by their paths in a CSV file",
        PICTURES, rare=True,
    )  # fmt: skip
    csv_file_column: str = option("file", "csv:FILE: column of file names", PICTURES, rare=True)
    csv_label_column: str = option("label", "csv:FILE: column of labels", PICTURES, rare=True)
    csv_split_column: str = option(
        "", "csv:FILE: column of splits; empty: split, if there is one", PICTURES, rare=True
    )
    csv_group_column: str = option(
        "",
        "csv:FILE: column of groups of pictures that belong together, such as those of a patient;"
        " empty: group, if there is one",
        PICTURES, rare=True,
    )  # fmt: skip

    def csv_columns(self) -> CsvColumns:
        """Return the columns of csv:FILE, or raise UsageError if two are the same."""
        roles = ("file", "label", "split", "group")
        return CsvColumns(*(getattr(self, f"csv_{role}_column") for role in roles))
