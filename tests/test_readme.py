"""Tests that the figures in README.md and in the recipes are those of experiments/README.md."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "experiments").glob("*.flags"), key=lambda path: path.stem)

# What the short table says in words, and the long one in a footnote.
OLDER_VERSION = (", float32, older version", " [3]")

# A measured row in the comment of a recipe, in which each run of blanks is one.
MEASURED = re.compile(
    r"(?P<labels>\d+|all) labels?(?: a class)?(?:, seeds [\d, ]+)?:"
    r" transfer (?P<transfer>[\d.]+ \+- [\d.]+) %,"
    r" scratch (?P<scratch>[\d.]+ \+- [\d.]+) %,(?: which had not converged,)?"
    r" gain (?P<gain>\S+ \(\S+ to [^\s)]+\)) points"
)


def rows_of(text: str) -> list[str]:
    """Return the rows of results in a page: those of a table that has a verdict."""
    return [
        line
        for line in text.splitlines()
        if re.search(r"\| (positive|negative|inconclusive|–) \| [^|]+ \|$", line)
    ]


def comment_of(recipe: Path) -> str:
    """Return the comment of a recipe on one line."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return " ".join(" ".join(line.removeprefix("#") for line in lines if line[:1] == "#").split())


def test_rows_of_results_stand_word_for_word_in_the_page_of_all_results() -> None:
    rows = rows_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(rows) == 10
    assert {row.replace(*OLDER_VERSION) for row in rows} <= set(rows_of(RESULTS))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_measured_rows_of_a_recipe_stand_in_the_page_of_all_results(recipe) -> None:
    rows = [row for row in rows_of(RESULTS) if row.startswith(f"| `{recipe.stem}`")]
    for match in MEASURED.finditer(comment_of(recipe)):
        transfer, scratch = (match[arm].replace("+-", "±") for arm in ("transfer", "scratch"))
        cells = f" | {transfer} | {scratch} | {match['gain']} | "
        assert [row for row in rows if f" | {match['labels']} | " in row and cells in row], cells


def test_most_recipes_have_measured_rows() -> None:
    """Otherwise the test above would look at nothing."""
    found = [recipe.stem for recipe in RECIPES if MEASURED.search(comment_of(recipe))]
    assert len(found) >= 8
    assert len(MEASURED.findall(comment_of(ROOT / "experiments" / "mnist_to_usps.flags"))) == 3


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_accuracies_of_a_recipe_stand_in_the_page_of_all_results(recipe) -> None:
    """Those of the models before they train on the target stand there with one decimal."""
    for mean, std in re.findall(r"\b(\d\d\.\d\d) \+- (\d\.\d\d)", comment_of(recipe)):
        exact, rounded = f"{mean} ± {std}", f"{float(mean):.1f} ± {float(std):.1f}"
        assert exact in RESULTS or rounded in RESULTS, exact
