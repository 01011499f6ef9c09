"""Tests of the house itself: who may import whom, what stays light, and what has a test."""

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tl_keras

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "tl_keras"

# What each room may import of ours: itself, and what stands here. The way through the house runs
# from the bottom of this table to its top, and never back.
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "storage": {"config", "errors"},
    "runtime": {"errors", "storage"},
    "distributed": {"config", "errors", "runtime", "storage"},
    "pictures": {"config", "errors", "runtime", "storage"},
    "data": {"config", "errors", "pictures", "runtime", "storage"},
    "models": {"config", "errors", "pictures", "runtime", "storage"},
    "report": {"config", "errors", "pictures", "storage"},
    "training": {
        *("config", "data", "distributed", "errors", "models", "pictures", "runtime", "storage"),
    },
    "methods": {
        *("config", "data", "distributed", "errors", "models", "pictures", "runtime", "storage"),
        "training",
    },
    "inference": {
        *("config", "data", "distributed", "errors", "models", "pictures", "report", "runtime"),
        *("storage", "training"),
    },
    "experiment": {
        *("config", "data", "distributed", "errors", "methods", "models", "pictures", "report"),
        *("runtime", "storage", "training"),
    },
    "cli": {
        *("config", "data", "distributed", "errors", "experiment", "methods", "models", "runtime"),
        "storage",
    },
    # The commands. They are thin: what they do is in a room.
    "main": {"cli", "config", "experiment"},
    "compare": {"cli", "config", "experiment"},
    "launch": {"cli", "distributed", "errors"},
    "predict": {"cli", "inference"},
    # `from tl_keras import Config, run`: the second is looked up when it is asked for.
    "__init__": {"config", "experiment", "inference", "runtime"},
}
COMMANDS = {"main", "compare", "launch", "predict"}

# These are read before anything is computed, so that a mistyped flag is answered at once.
LIGHT = [
    "tl_keras",
    "tl_keras.cli.comparison_flags",
    "tl_keras.cli.console",
    "tl_keras.cli.flags",
    "tl_keras.cli.launch_flags",
    "tl_keras.compare",
    "tl_keras.config",
    "tl_keras.config.bounds",
    "tl_keras.config.comparison",
    "tl_keras.config.config",
    "tl_keras.config.options",
    "tl_keras.config.pace",
    "tl_keras.config.tfds",
    "tl_keras.config.training",
    "tl_keras.config.augmentation",
    "tl_keras.data.catalog",
    "tl_keras.errors",
    "tl_keras.experiment.validate",
    "tl_keras.launch",
    "tl_keras.main",
    "tl_keras.methods.catalog",
    "tl_keras.models.catalog",
    "tl_keras.runtime.interruption",
    "tl_keras.runtime.keras_defaults",
    "tl_keras.runtime.seeds",
    "tl_keras.storage.crash_points",
    "tl_keras.storage.files",
    "tl_keras.storage.workdir",
]
HEAVY = {
    *("PIL", "h5py", "keras", "matplotlib", "mlxtend", "numpy", "scipy", "sklearn"),
    *("tensorboard", "tensorflow", "tensorflow_datasets"),
}

# The test file of a module is test_<module>.py, or stands here.
TEST_FILES = {
    "__init__": "test_architecture.py",
    "config/bounds": "test_options.py",
    "experiment/validate": "test_options.py",
    "cli/console": "test_main.py",
    "config/config": "test_options.py",
    "runtime/environment": "test_workdir.py",
    "errors": "test_main.py",
    "storage/crash_points": "test_kills.py",
    "config/training": "test_options.py",
    "experiment/setup": "test_experiment.py",
    "config/pictures": "test_options.py",
    "pictures/analysis": "test_data_report.py",
    "pictures/thumbnails": "test_duplicates.py",
    "experiment/data_files": "test_folder.py",
    "pictures/arrays": "test_picture_set.py",
    "pictures/streamed": "test_picture_set.py",
    "pictures/kept_sets": "test_picture_set.py",
    "pictures/decoded_set": "test_picture_set.py",
    "pictures/file_set": "test_picture_set.py",
    "pictures/limits": "test_picture_file.py",
    "experiment/arm": "test_experiment.py",
    "experiment/automatic": "test_arms.py",
    "experiment/images": "test_experiment.py",
    "experiment/cleanup": "test_experiment.py",
    "experiment/train_and_test": "test_experiment.py",
    "experiment/source": "test_experiment.py",
    "experiment/target_classes": "test_class_counts.py",
    "predict": "test_predict.py",
    "cli/predict_flags": "test_predict.py",
    "config/prediction": "test_predict.py",
    "inference/find_model": "test_predict.py",
    "inference/picture_files": "test_predict.py",
    "inference/predict_files": "test_predict.py",
    "inference/trained_model": "test_predict.py",
    "pictures/picture_format": "test_predict.py",
    "report/conclusion": "test_summary.py",
    "data/catalog": "test_reading.py",
    "data/dataset": "test_reading.py",
    "data/draws": "test_augment.py",
    "data/tfds_examples": "test_reading.py",
    "config/tfds": "test_tfds_features.py",
    "data/tfds_labels": "test_tfds_features.py",
    "data/tfds_splits": "test_tfds_features.py",
    "pictures/parallel": "test_folder.py",
    "data/tfds_reader": "test_reading.py",
    "methods/bss": "test_penalties.py",
    "methods/catalog": "test_transfer_flags.py",
    "methods/delta": "test_penalties.py",
    "methods/distill": "test_penalties.py",
    "methods/feature_distance": "test_penalties.py",
    "methods/features": "test_methods.py",
    "methods/finetune": "test_methods.py",
    "methods/joint": "test_methods.py",
    "methods/l2": "test_penalties.py",
    "methods/l2sp": "test_penalties.py",
    "methods/penalty": "test_penalties.py",
    "methods/scratch": "test_methods.py",
    "methods/interface": "test_methods.py",
    "methods/supervised": "test_methods.py",
    "models/catalog": "test_models.py",
    "models/conv4": "test_models.py",
    "models/naming": "test_building.py",
    "models/sharded_dropout": "test_distribution.py",
    "models/small_cnn": "test_models.py",
    "cli/flags": "test_options.py",
    "cli/comparison_flags": "test_comparison_options.py",
    "cli/launch_flags": "test_launch.py",
    "compare": "test_compare.py",
    "config/augmentation": "test_augmentation.py",
    "config/comparison": "test_comparison_options.py",
    "config/csv_columns": "test_csv_layout.py",
    "config/flat": "test_workdir.py",
    "config/resume": "test_workdir.py",
    "pictures/csv_table": "test_csv_layout.py",
    "pictures/links": "test_layout.py",
    "pictures/listed_files": "test_csv_layout.py",
    "config/shots": "test_options.py",
    "config/terms": "test_transfer_flags.py",
    "config/trainable": "test_building.py",
    "methods/rows": "test_transfer_flags.py",
    "config/options": "test_options.py",
    "config/pace": "test_checkpoints.py",
    "distributed/local_cluster": "test_launch.py",
    "models/feature_maps": "test_groups.py",
    "training/validation": "test_loop.py",
    "training/progress": "test_loop.py",
    "training/statistics": "test_batch_statistics.py",
}

SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = SOURCES + sorted(TESTS.glob("*.py"))


def name_of(path: Path) -> str:
    """Return a module's path below the package, without its ending: data/splits."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names that a file imports, wherever in it that happens."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found.add(ast.unparse(node.args[0]).strip("f'\""))
    return found


def rooms_imported(path: Path) -> set[str]:
    """Return which of our rooms a file imports from; its own is left out."""
    own = name_of(path).partition("/")[0]
    ours = [name for name in imported_modules(path) if name.partition(".")[0] == "tl_keras"]
    return {name.split(".")[1] for name in ours} - {own}


def test_import_table_names_every_room_and_has_no_circle() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert set(MAY_IMPORT) == rooms
    seen: set[str] = set()
    for room, allowed in MAY_IMPORT.items():
        assert allowed <= seen, f"{room} may import what comes after it"
        seen.add(room)
    assert not any(COMMANDS & allowed for allowed in MAY_IMPORT.values())


def test_top_level_has_the_commands_and_rooms_alone() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "errors"} | COMMANDS
    for command in COMMANDS:
        lines = (PACKAGE / f"{command}.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 40, f"{command} is not thin: move what it does into a room"


@pytest.mark.parametrize(
    "room", sorted({path.parent for path in PACKAGE.glob("*/*.py")}), ids=lambda room: room.name
)
def test_room_says_what_is_in_it_and_what_it_may_import(room) -> None:
    docstring = ast.get_docstring(tree_of(room / "__init__.py")) or ""
    assert len(docstring.splitlines()) >= 3
    imports = docstring.rpartition("It may import ")[2]
    assert set(re.findall(r"`(\w+)`", imports)) == MAY_IMPORT[room.name]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_imports_only_what_its_room_may(path) -> None:
    room = name_of(path).partition("/")[0]
    assert rooms_imported(path) <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_reads_no_flags_unless_it_is_cli_flags(path) -> None:
    """`from tl_keras import ...` can do what the command line does: nothing reads FLAGS."""
    uses_absl = any(name.partition(".")[0] == "absl" for name in imported_modules(path))
    assert uses_absl == (name_of(path) == "cli/flags")


def test_test_of_imports_sees_each_form_of_import(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / "room" / "module.py"
    path.parent.mkdir()
    path.write_text(
        "import numpy\nimport tl_keras.one.part\nfrom tl_keras import two\n"
        "from tl_keras.three import part\nfrom tl_keras.room import other\n"
        "def late():\n    from tl_keras import four\n"
        "    import_module(f'tl_keras.five.{name}')\n"
    )
    assert rooms_imported(path) == {"one", "two", "three", "four", "five"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_loads_nothing_heavy(module) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TESTS.parent
    )
    loaded = set(done.stdout.split())
    assert "tl_keras" in loaded
    assert not loaded & HEAVY


def test_catalogs_and_flags_are_among_the_light_modules() -> None:
    catalogs = {
        f"tl_keras.{name_of(path).replace('/', '.')}" for path in PACKAGE.rglob("catalog.py")
    }
    assert catalogs | {"tl_keras.cli.flags", "tl_keras.main", "tl_keras.config"} <= set(LIGHT)


def test_package_offers_what_it_lists_and_no_more() -> None:
    for name in tl_keras.__all__:
        assert getattr(tl_keras, name).__module__.startswith("tl_keras.")
    with pytest.raises(AttributeError, match="has no attribute 'walk'"):
        _ = tl_keras.walk


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_file_is_short_and_has_a_telling_name(path) -> None:
    assert not re.search(r"util|helper|common|misc|stuff", path.stem)
    if PACKAGE in path.parents:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_says_what_it_is(path) -> None:
    tree = tree_of(path)
    if tree.body:
        docstring = ast.get_docstring(tree)
        assert docstring
        assert docstring.splitlines()[0].endswith((".", "?"))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_has_no_assert_and_no_star(path) -> None:
    """`python -O` drops asserts, so they check nothing that a user could get wrong."""
    for node in ast.walk(tree_of(path)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_raises_no_error_without_a_documented_exit_code(path) -> None:
    raised = [node.exc for node in ast.walk(tree_of(path)) if isinstance(node, ast.Raise)]
    calls = [error.func for error in raised if isinstance(error, ast.Call)]
    assert "TransferError" not in [ast.unparse(name) for name in calls]


def test_requirements_leave_out_releases_of_filelock_with_known_vulnerabilities() -> None:
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    wanted = [
        Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line
    ]
    [allowed] = [requirement.specifier for requirement in wanted if requirement.name == "filelock"]
    # CVE-2025-68146 is fixed in 3.20.1, CVE-2026-22701 in 3.20.3.
    assert not list(allowed.filter(["3.16.0", "3.20.0", "3.20.2"]))
    assert version("filelock") in allowed


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.parent.name not in MAY_IMPORT or path.stem != "__init__"],
    ids=name_of,
)
def test_module_has_a_test_file(path) -> None:
    assert (TESTS / TEST_FILES.get(name_of(path), f"test_{path.stem}.py")).is_file()


def test_table_of_test_files_names_modules_that_exist() -> None:
    assert set(TEST_FILES) <= {name_of(path) for path in SOURCES}
