"""Models with dropout: continued to the bit, and trained on two replicas."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Records
from made import task as task_of

from tl_keras.config import Training
from tl_keras.config.pace import Pace
from tl_keras.models import building, weights
from tl_keras.training.loop import Loop


def make_task(seed=1):
    model = building.build(
        "conv4", 3, image_size=8, input_channels=1, body_channels=1, dense_units=16, seed=seed
    )
    return task_of(model)


def train(folder, fail_at=None, **flags):
    task, records = make_task(), Records(fail_at)
    training = Training(learning_rate=0.01, **flags)
    pace = Pace(steps=3)
    Loop(task, training, tf.distribute.get_strategy(), folder, records, "test", pace).run()
    return task, records


def digest(task):
    return weights.hash_tensors(weights.get_tensors(task.model))


def test_dropout_of_a_continued_run_is_that_of_an_uninterrupted_one(tmp_path):
    flags = {"steps": 12, "eval_steps": 4}
    whole, expected = train(tmp_path / "whole", **flags)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", fail_at=6, **flags)
    continued, records = train(tmp_path / "killed", **flags)
    assert records == expected
    assert digest(continued) == digest(whole)


def test_dropout_draws_anew_at_each_step(tmp_path):
    """The generators' states move, or a continued run would prove nothing."""
    task, _ = train(tmp_path, steps=3)
    states = {
        variable.path: [variable.numpy(), fresh.numpy()]
        for variable, fresh in zip(task.model.variables, make_task().model.variables, strict=True)
        if "seed_generator" in variable.path
    }
    assert len(states) == 3
    assert all((now != at_first).any() for now, at_first in states.values())
    # With one state, two passes are the same, and with the next one they are not.
    layer = next(one for one in task.model.layers if isinstance(one, keras.layers.Dropout))
    ones = np.ones((1, 100), np.float32)
    masks = [np.asarray(layer(ones, training=True)) for _ in range(2)]
    assert (masks[0] != masks[1]).any()


TWO_REPLICAS = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
import tensorflow as tf
from tl_keras.distributed import distribution
distribution.configure_devices(2)
sys.path.insert(0, sys.argv[1])
import test_random_layers
from tl_keras.config import Training
from tl_keras.distributed.distribution import make_strategy
from tl_keras.training.loop import Loop
strategy = make_strategy("mirrored", 2)
with strategy.scope():
    task = test_random_layers.make_task()
records = test_random_layers.Records()
training = Training(steps=60, learning_rate=0.01, ema=0.5)
Loop(task, training, strategy, Path(tempfile.mkdtemp()), records, "test").run()
copies = {
    v.path: [np.asarray(one).tolist() for one in strategy.experimental_local_results(v.value)]
    for v in task.model.variables
}
print(json.dumps([strategy.num_replicas_in_sync, records, copies]))
"""


@pytest.mark.slow
def test_dropout_trains_on_two_replicas():
    command = [sys.executable, "-c", TWO_REPLICAS, str(Path(__file__).parent)]
    program = subprocess.run(command, capture_output=True, text=True, check=False)
    assert program.returncode == 0, program.stderr[-2000:]
    replicas, records, copies = json.loads(program.stdout.splitlines()[-1])
    assert replicas == 2
    last = records[-1][1]
    assert last["train/loss"] < 0.5 * records[0][1]["train/loss"]
    assert last["validation/accuracy"] > 0.9
    trained = [values for path, values in copies.items() if "seed_generator" not in path]
    assert all(first == second for first, second in trained)
