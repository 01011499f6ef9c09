"""Tests of the measurement of two processes that halve a machine."""

import json
import os

import pytest

from experiments.benchmarks import together
from experiments.benchmarks.scaling import Link

pytestmark = pytest.mark.slow


def test_rows_are_measured_in_turns_and_printed_beside_what_is_expected(monkeypatch, capsys):
    asked = []

    def run(name, workers):
        asked.append((name, workers))
        return [100.0, 300.0, 200.0] if workers == 1 else [90.0, 270.0, 180.0]

    monkeypatch.setattr(together, "run", run)
    monkeypatch.setattr(together, "expected", lambda row, rate: rate / 1000)
    assert together.main(["together", "--rows=^small.*512", "--rounds=2"]) == 0
    name = "small_cnn, batch 512"
    assert asked == [(name, 1), (name, 2), (name, 1), (name, 2)]
    assert "| small_cnn, batch 512 | 200 | 180 | 0.90 | 0.70 | 0.20 |" in capsys.readouterr().out


def test_norms_of_the_whole_batch_are_expected_to_take_longer(monkeypatch):
    monkeypatch.setattr(together.scaling, "counts", lambda model: (25_000_000, 50))
    monkeypatch.setattr(together, "LINK", Link(bandwidth=1e9, latency=1e-3))
    rows = together.ROWS
    # A step of half a second, in which 100 MB take a tenth; two messages, and 200 for the norms.
    own = together.expected(rows["resnet50, each its norms"], 64.0)
    assert own == pytest.approx(0.5 / (0.5 + 0.1 + 2e-3))
    assert together.expected(rows["resnet50"], 64.0) == pytest.approx(0.5 / (0.5 + 0.302))


def test_clock_tells_of_the_rounds_behind_the_first_ones_and_ends(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    clock = together.Clock()
    for _ in range(together.WARMUP + together.ROUNDS):
        assert not ended
        clock.begin()
        clock.end(10)
    assert ended == [0]
    assert len(json.loads(capsys.readouterr().out)) == together.ROUNDS
