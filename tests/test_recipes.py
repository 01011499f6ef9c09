"""Tests of experiments/: every recipe is a command line that is checked, and a make target."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tl_keras.cli import flags

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.flags"))}

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")


def make(*words: str) -> str:
    """Return what `make` prints."""
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_page_of_recipes_lists_each_with_its_description() -> None:
    page = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.flags\) \| (.+) \|$", page, re.MULTILINE)
    described = {
        name: path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        for name, path in RECIPES.items()
    }
    assert {name: line for name, _, line in listed} == described
    assert all(name == file for name, file, _ in listed)


def test_experiments_hold_recipes_comparisons_and_benchmarks_alone() -> None:
    names = {path.name for path in (ROOT / "experiments").iterdir()}
    evidence = {"README.md", "intervals.py", "intervals_text.py", "intervals.md", "defaults.md"}
    folders = {"comparisons", "benchmarks"}
    assert names - {"__pycache__"} == {f"{n}.flags" for n in RECIPES} | folders | evidence
    found = {path.name for path in (ROOT / "experiments" / "comparisons").iterdir()}
    assert found == {f"{path.stem}{end}" for path in map(Path, found) for end in (".md", ".png")}


@needs_make
def test_compare_target_names_the_recipe_and_passes_flags_on() -> None:
    printed = make("--dry-run", "compare", "RECIPE=mnist_to_usps", "FLAGS=--seeds=0,1")
    assert "-m tl_keras.compare --flagfile=experiments/mnist_to_usps.flags --seeds=0,1" in printed


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_a_command_line_that_passes_every_check(name, monkeypatch) -> None:
    # Files nest by their path from the project's folder, where make runs them.
    monkeypatch.chdir(ROOT)
    config = flags.parse(["tl_keras", f"--flagfile={RECIPES[name].relative_to(ROOT)}"])
    assert config is not None
    assert config.workdir == "", "a recipe with a workdir cannot be varied by flags"
    assert config.data_dir == ""


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_begins_with_a_line_that_describes_it(name) -> None:
    first = RECIPES[name].read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# \S.+\.", first)
    assert len(first) <= 100


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_sets_each_flag_once(name) -> None:
    lines = RECIPES[name].read_text(encoding="utf-8").splitlines()
    flags = [line.partition("=")[0] for line in lines if line.startswith("--")]
    assert len(set(flags)) == len(flags)


@needs_make
def test_recipes_are_make_targets() -> None:
    """`make --dry-run` prints the commands of each target and runs none."""
    commands = make("--dry-run", *RECIPES)
    for name in RECIPES:
        assert f"-m tl_keras.main --flagfile=experiments/{name}.flags" in commands


@needs_make
def test_make_recipes_lists_each_with_its_description() -> None:
    lines = make("recipes").splitlines()
    assert [line.split()[0] for line in lines] == sorted(RECIPES)
    for line in lines:
        name, description = line.split(maxsplit=1)
        assert RECIPES[name].read_text(encoding="utf-8").startswith(f"# {description}\n")


@needs_make
def test_make_run_is_the_main_job() -> None:
    assert "--flagfile=experiments/digits.flags" in make("--dry-run", "run")
