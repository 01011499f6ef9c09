"""Tests of the model of what sharing a batch among hosts is worth."""

import subprocess
import sys

import pytest
from made import ROOT

from experiments.benchmarks import scaling
from experiments.benchmarks.scaling import Link, Work

pytestmark = pytest.mark.slow

WORK = Work(parameters=25_000_000, norms=50, seconds=0.5)
LINK = Link(bandwidth=1e9, latency=1e-4)


def test_hosts_send_what_a_ring_sends():
    # 100 MB: half of them twice on two hosts, three quarters of them twice on four.
    gradients, norms = scaling.talking(WORK, LINK, 2)
    assert gradients == pytest.approx(0.1 + 2e-4)
    assert norms == pytest.approx(2 * 1e-4 * 100)
    gradients, norms = scaling.talking(WORK, LINK, 4)
    assert gradients == pytest.approx(0.15 + 6e-4)
    assert norms == pytest.approx(6 * 1e-4 * 100)
    assert scaling.talking(WORK, LINK, 1) == (0.0, 0.0)


def test_speed_up_is_what_is_left_of_the_hosts():
    assert scaling.speed_up(WORK, LINK, 1) == 1.0
    assert scaling.speed_up(WORK, LINK, 2) == pytest.approx(0.5 / (0.25 + 0.1002 + 0.02))
    # Two thirds of a share are the backward pass, which is longer than what the gradients take.
    assert scaling.speed_up(WORK, LINK, 2, overlapped=True) == pytest.approx(0.5 / (0.25 + 0.02))
    assert scaling.halved(WORK, LINK) == pytest.approx(0.5 / (0.5 + 0.1202))
    endless = Link(bandwidth=1e30, latency=0.0)
    assert scaling.speed_up(WORK, endless, 64) == pytest.approx(64)
    assert scaling.best(WORK, endless, most=256) == 256


def test_best_is_where_half_of_the_time_still_pays():
    best = scaling.best(WORK, LINK)
    assert scaling.speed_up(WORK, LINK, best) >= best / 2
    assert scaling.speed_up(WORK, LINK, 2 * best) < best
    assert scaling.best(WORK._replace(seconds=1e-6), LINK) == 1


def test_models_are_counted():
    parameters, norms = scaling.counts("resnet50")
    assert norms == 53
    # 25.6 million with 1,000 classes; here there are ten.
    assert parameters == pytest.approx(23.6e6, rel=0.01)
    assert scaling.counts("small_cnn")[1] == 0


def test_program_prints_a_table_and_refuses_what_cannot_be(capsys):
    given = ["scaling", "--model=small_cnn", "--batch_size=512", "--images_per_second=17000"]
    assert scaling.main(given) == 0
    out = capsys.readouterr().out
    assert "small_cnn: 0.7 million parameters, 0 norms" in out
    assert "hosts  speed-up  efficiency  with overlap" in out
    assert "more than half of the time pays on up to" in out
    for word in ("--images_per_second=0", "--batch_size=-1", "--gigabits=0", "--latency=-1"):
        with pytest.raises(SystemExit) as ended:
            scaling.main([*given, word])
        assert ended.value.code == 2
        assert word.partition("=")[0] in capsys.readouterr().err


def test_help_says_what_is_computed():
    command = [sys.executable, "-m", "experiments.benchmarks.scaling", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "step(N) = T / N" in done.stdout
