"""The files of a workdir about the pictures: what was found in them, and their splits.

    data_report.json    {"target": REPORT, "source": REPORT}, see `pictures.data_report`; with null
                        for a dataset whose pictures were not decoded before training
    split.csv           file,label,split of each picture of the target; `source_split.csv` of the
                        source's. The split is train, validation, test or dropped. Of the training
                        pictures, a run may take some for its own validation.

Datasets that do not consist of files are not in them.
"""

import csv
import io
from pathlib import Path

from tl_keras.data.dataset import DatasetFiles
from tl_keras.experiment.setup import ExperimentSetup
from tl_keras.storage import files

REPORT, SPLIT = "data_report.json", "split.csv"


def write(setup: ExperimentSetup, root: Path) -> None:
    """Write the files of an experiment's datasets, if these consist of files.

    Args:
        setup: setup of the experiment.
        root: the workdir.

    Raises:
        WriteError: a file cannot be written.
    """
    named = {"target": setup.target, "source": setup.source}
    found = {role: of.dataset.files for role, of in named.items() if of and of.dataset.files}
    for role, its in found.items():
        name = SPLIT if role == "target" else f"{role}_{SPLIT}"
        files.write_bytes(root / name, _format_split(its))
    if found:
        reports = {role: its.report and its.report.as_json() for role, its in found.items()}
        files.write_json(root / REPORT, reports)


def _format_split(found: DatasetFiles) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "label", "split"))
    writer.writerows(found.list_files())
    # Names may have bytes that are not UTF-8.
    return text.getvalue().encode(errors="surrogateescape")
