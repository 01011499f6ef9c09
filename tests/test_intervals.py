"""The simulation of intervals in the small: what is drawn, and how often a verdict is false."""

import re
from pathlib import Path

import numpy as np
import pytest

from experiments import intervals
from experiments.intervals import Job, Kind
from experiments.intervals_text import BOOTSTRAP, BOTH, IMAGES, SEEDS, SEEDS_ALONE
from tl_keras.report import metrics

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[1] / "experiments" / "intervals.md"
PLAIN = Kind("", 0.8, 1.0, 0.3, 0.5)


@pytest.mark.parametrize(
    "kind",
    [PLAIN, PLAIN._replace(gain=0.1), PLAIN._replace(collapse=0.2), *intervals.NULL[::5]],
)
def test_drawn_arms_differ_by_the_gain_in_the_mean(kind):
    drawn = intervals.draw(kind, 50, 4000, np.random.default_rng(0))
    assert drawn.dtype == np.int8 and drawn.shape == (4000, 10, 50)
    means = drawn.mean(axis=(1, 2))
    error = means.std() / len(means) ** 0.5
    assert abs(means.mean() - kind.gain) < 4 * error < 0.02


def test_drawn_arms_that_share_their_effects_differ_less():
    generator = np.random.default_rng(0)
    apart, alike = (
        np.abs(intervals.draw(PLAIN._replace(shared=shared), 50, 500, generator)).mean()
        for shared in (0.0, 0.9)
    )
    assert alike < 0.9 * apart


def test_drawn_seeds_and_images_have_effects():
    def part(axis, **settings):
        drawn = intervals.draw(PLAIN._replace(**settings), 50, 500, np.random.default_rng(0))
        return float(drawn.mean(axis=axis).var(axis=1).mean())

    assert part(2, seed_std=1.0) > 3 * part(2, seed_std=0.0)
    assert part(1, image_std=3.0, shared=0.0) > 3 * part(1, image_std=0.0)


def test_simulation_judges_as_the_report_does():
    generator = np.random.default_rng(1)
    differences = intervals.draw(PLAIN._replace(gain=0.3), 40, 20, generator)
    own, _ = intervals._judge(differences)
    for one, told in zip(differences, own, strict=True):
        for look, seeds in enumerate(intervals.LOOKS):
            transfer, scratch = (
                {seed: sign * one[seed] > 0 for seed in range(seeds)} for sign in (1, -1)
            )
            verdict = metrics.verdict(metrics.paired_gain(transfer, scratch))
            assert (verdict != "inconclusive") == told[look]
    assert 0 < own.mean() < 1


@pytest.mark.parametrize("images", [10, 100, 1000])
def test_verdict_is_false_in_at_most_6_percent(images):
    kinds = [kind for kind in intervals.NULL if kind.accuracy < 0.99]
    found = intervals.run(kinds, [images], 1500, 0, 1)
    for finding in found:
        assert max(finding.verdicts[BOTH].values()) <= 0.06, finding
    # The same simulation tells what an interval is worth that knows nothing of the images.
    assert max(max(finding.verdicts[SEEDS_ALONE].values()) for finding in found) > 0.2


def test_verdict_after_any_of_several_looks_is_false_more_often():
    (finding,) = intervals.run(intervals.NULL[5:6], [1000], 1500, 200, 1)
    assert finding.looked[BOTH] > 2 * max(finding.verdicts[BOTH].values())
    assert finding.verdicts[BOOTSTRAP][2] > 0.2


def test_verdict_finds_what_is_there():
    weak, strong = intervals.run(
        [PLAIN._replace(shared=0.9, gain=gain) for gain in (0.02, 0.1)], [1000], 400, 0, 1
    )
    assert weak.verdicts[BOTH][10] < strong.verdicts[BOTH][10]
    assert strong.verdicts[BOTH][2] < 0.6 < 0.99 < strong.verdicts[BOTH][10]


def test_findings_do_not_depend_on_the_number_of_processes():
    kinds = intervals.NULL[:2]
    assert intervals.run(kinds, [10], 50, 0, 1) == intervals.run(kinds, [10], 50, 0, 2)


def test_program_writes_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(intervals, "IMAGES", (10, 100, 10_000))
    simulate = intervals.simulate

    def small(job: Job):
        return simulate(job._replace(experiments=3, bootstraps=min(job.bootstraps, 1)))

    monkeypatch.setattr(intervals, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(intervals, "simulate", small)
    assert intervals.main(["intervals", "--quick", f"--out={tmp_path / 'a.md'}"]) == 0
    page = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{page}\n"
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [line for line in PAGE.read_text().splitlines() if line.startswith("## ")]


class InThisProcess:
    """Stands for a pool of processes."""

    def __init__(self, _: int):
        self.map = map

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_page_has_every_cell_and_none_above_6_percent():
    text = PAGE.read_text(encoding="utf-8").partition("## False verdicts")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ %, ", line)]
    assert len(rows) == len(intervals.NULL)
    figures = [[float(cell) for cell in row.split(" | ")[1:-1] + [row.split(" | ")[-1][:-2]]]
               for row in rows]  # fmt: skip
    assert {len(row) for row in figures} == {len(SEEDS) * len(IMAGES)}
    assert max(map(max, figures)) <= 6.0
    assert "10,000 experiments a cell" in PAGE.read_text(encoding="utf-8")
