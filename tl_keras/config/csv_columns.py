"""The names of the columns of a CSV file with labels."""

import dataclasses

from tl_keras.errors import UsageError


@dataclasses.dataclass(frozen=True)
class CsvColumns:
    """The column of each role, as the header of the file names it.

    Attributes:
        file: names of the image files.
        label: names of the classes.
        split: the split of each file; "" for the column "split", if there is one.
        group: names of groups of files that belong together; "" for the column "group", if there is
            one.
    """

    file: str = "file"
    label: str = "label"
    split: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        """Check that the roles have different columns.

        Raises:
            UsageError: two roles have the same column, or the file or the label has none.
        """
        roles: dict[str, str] = {}
        for role, column in dataclasses.asdict(self).items():
            flag = f"--csv_{role}_column={column}"
            if not column and role in ("file", "label"):
                raise UsageError(f"{flag} is empty. Name a column of the CSV file")
            if column and column in roles:
                raise UsageError(
                    f"{flag} and --csv_{roles[column]}_column={column} are the same column. Name"
                    " two different ones"
                )
            roles[column] = role


DEFAULT_COLUMNS = CsvColumns()
