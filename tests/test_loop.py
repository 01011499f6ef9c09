"""The training loop: continued to the bit, stopped early, and the same on two replicas."""

import json
import subprocess
import sys
from pathlib import Path

import made
import numpy as np
import pytest
import tensorflow as tf
from made import Records
from scipy.special import logsumexp

from tl_keras.config import Training
from tl_keras.config.pace import Pace
from tl_keras.config.trainable import Trainable
from tl_keras.errors import DivergedError
from tl_keras.methods.interface import cross_entropy_of
from tl_keras.models import building, weights
from tl_keras.training.loop import Loop
from tl_keras.training.task import CrossEntropy, Objective, Task


def train(folder, training, records=None, **arguments):
    task = made.task(**arguments)
    records = Records() if records is None else records
    pace = Pace(steps=5)
    loop = Loop(task, training, tf.distribute.get_strategy(), folder, records, "test", pace)
    return task, loop.run(), records


ADAM_COSINE = Training(steps=24, eval_steps=6, schedule="cosine", learning_rate=0.01)
PLATEAU = Training(
    steps=24, eval_steps=3, schedule="plateau", plateau_patience=1, learning_rate=0.1,
    optimizer="sgd", early_stopping=4,
)  # fmt: skip


@pytest.mark.parametrize("training", [ADAM_COSINE, PLATEAU], ids=["cosine", "plateau"])
@pytest.mark.parametrize("killed_at", [2, 7, 18])
def test_loop_continues_to_the_bit(tmp_path, training, killed_at):
    whole, result, expected = train(tmp_path / "whole", training)
    stops = [step for step, _ in expected]
    killed_at = min((step for step in stops if step >= killed_at), default=stops[-1])
    records = Records(fail_at=killed_at)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", training, records)
    records.fail_at = None
    continued, again, _ = train(tmp_path / "killed", training, records)
    assert again.steps == result.steps
    assert records == expected
    digests = [weights.hash_tensors(weights.get_tensors(task.model)) for task in (whole, continued)]
    assert digests[0] == digests[1]


def test_loop_that_is_finished_trains_no_more(tmp_path):
    first, result, expected = train(tmp_path, ADAM_COSINE)
    second, again, records = train(tmp_path, ADAM_COSINE)
    assert again == result and records == expected
    np.testing.assert_array_equal(first.model.get_weights()[0], second.model.get_weights()[0])


def test_loop_learns_and_says_how_well(tmp_path):
    _, result, records = train(tmp_path, Training(steps=60, learning_rate=0.01))
    last = records[-1][1]
    assert last["validation/accuracy"] > 0.9 and last["train/loss"] < records[0][1]["train/loss"]
    assert result.steps == 60 and result.images_per_second > 0
    assert last["train/learning_rate"] == pytest.approx(0.01)


def test_loop_keeps_the_weights_of_the_best_validation(tmp_path):
    # A learning rate that destroys what was learned: the best weights lie behind.
    training = Training(
        steps=40, eval_steps=2, optimizer="sgd", learning_rate=1.0, momentum=0.9, early_stopping=5
    )
    task, result, records = train(tmp_path, training)
    losses = {step: values["validation/loss"] for step, values in records if step % 2 == 0}
    best = min(losses, key=losses.get)
    assert result.steps == best + 10 < 40
    logits = task.model(task.validation.images, training=False)["logits"].numpy().astype(float)
    loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(15), task.validation.labels])
    assert loss == pytest.approx(losses[best], rel=1e-5)


def test_loop_stops_where_the_loss_is_not_finite_and_says_at_which_step(tmp_path):
    training = Training(steps=50, optimizer="sgd", learning_rate=1e3, momentum=0.99)
    task = made.task()
    calls = iter(range(1000))

    def objective(batch, progress):
        terms, figures = cross_entropy_of(task.model, CrossEntropy())(batch, progress)
        poison = tf.py_function(lambda: np.nan if next(calls) >= 4 else 0.0, [], tf.float32)
        return Objective({name: value + poison for name, value in terms.items()}, figures)

    task = Task(task.model, task.variables, task.streams, objective, task.validation)
    loop = Loop(task, training, tf.distribute.get_strategy(), tmp_path, Records(), "test")
    with pytest.raises(
        DivergedError, match="at step 5 of 50: training diverged; .*--allow_changed$"
    ):
        loop.run()


def test_loop_trains_nothing_where_no_steps_are_asked_for(tmp_path):
    task, result, records = train(tmp_path, Training(epochs=0))
    fresh = made.task()
    assert result.steps == 0 and records == []
    assert weights.hash_tensors(weights.get_tensors(task.model)) == weights.hash_tensors(
        weights.get_tensors(fresh.model)
    )


def test_loop_clips_the_norm_of_all_gradients_together(tmp_path):
    training = Training(steps=1, optimizer="sgd", momentum=0, learning_rate=1, clip_norm=0.01)
    before = made.task().model.get_weights()
    task, _, _ = train(tmp_path, training)
    moved = [new - old for new, old in zip(task.model.get_weights(), before, strict=True)]
    assert np.sqrt(sum(np.sum(np.square(one)) for one in moved)) == pytest.approx(0.01, rel=1e-4)


def test_loop_leaves_what_is_not_listed_to_the_bit(tmp_path):
    task = made.task()
    building.set_trainable(task.model, Trainable.parse("head"))
    task = Task(task.model, task.model.trainable_variables, task.streams, task.objective)
    before = weights.get_tensors(task.model)
    Loop(task, ADAM_COSINE, tf.distribute.get_strategy(), tmp_path, Records(), "test").run()
    after = weights.get_tensors(task.model)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == {"conv/kernel", "conv/bias", "dense/kernel", "dense/bias"}


TWO_REPLICAS = """
import json, sys, tempfile
from pathlib import Path
import tensorflow as tf
from tl_keras.distributed import distribution
distribution.configure_devices(2)
sys.path.insert(0, sys.argv[1])
import made, test_loop
from tl_keras.config import Training
from tl_keras.distributed.distribution import make_strategy
from tl_keras.training.loop import Loop
found = {}
for name in ("one_device", "mirrored"):
    strategy = make_strategy(name, 2)
    with strategy.scope():
        task = made.task()
    records = test_loop.Records()
    training = Training(steps=12, learning_rate=0.01, clip_norm=0.5, weight_decay=0.01)
    Loop(task, training, strategy, Path(tempfile.mkdtemp()), records, "test").run()
    found[name] = [strategy.num_replicas_in_sync, records]
print(json.dumps(found))
"""


def test_loop_gives_the_same_on_two_replicas(tmp_path):
    command = [sys.executable, "-c", TWO_REPLICAS, str(Path(__file__).parent)]
    program = subprocess.run(command, capture_output=True, text=True, check=False)
    assert program.returncode == 0, program.stderr[-2000:]
    found = json.loads(program.stdout.splitlines()[-1])
    assert [found[name][0] for name in ("one_device", "mirrored")] == [1, 2]
    pairs = list(zip(found["one_device"][1], found["mirrored"][1], strict=True))
    assert len(pairs) > 3
    for (step, one), (same_step, two) in pairs:
        assert step == same_step and one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (step, name)
