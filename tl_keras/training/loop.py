"""The training loop. There is one: for every method, arm and strategy.

Many steps run in each call of a `tf.function`, with `strategy.run` inside. Between calls the loop
records, validates, stops early and saves; all of this falls on steps that depend on the settings
alone, so that a continued run does exactly what an uninterrupted one does.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf
from scipy.special import log_softmax

from tl_keras.config import Training
from tl_keras.data.dataset import ImageSet
from tl_keras.errors import TransferError
from tl_keras.models import weights
from tl_keras.training.averaging import Average
from tl_keras.training.checkpoints import Checkpoints
from tl_keras.training.optimizers import Schedule, make_optimizer, total_steps
from tl_keras.training.prediction import Predictor
from tl_keras.training.progress import Progress
from tl_keras.training.task import Batch, Stage, Task

SECONDS_A_CALL = 0.5
MOST_VALIDATIONS = 20
RECORDS_A_VALIDATION = 5


class Recorder(Protocol):
    """Who is told of the run's figures."""

    def resume(self, step: int) -> None:
        """Forget all that was recorded after `step`."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record `values`, by names such as `train/loss`, at `step`."""


class Result(NamedTuple):
    """What a finished run took."""

    steps: int
    seconds: float
    images_per_second: float


@dataclass
class State:
    """How far a run is: what a checkpoint holds besides the variables."""

    step: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    since_best: int = 0
    since_decay: int = 0
    stopped: bool = False


class Loop:
    """One run of training: `Loop(...).run()`."""

    def __init__(
        self,
        task: Task,
        training: Training,
        strategy: tf.distribute.Strategy,
        folder: Path,
        recorder: Recorder,
        title: str,
    ):
        """Prepare to train `task`, keeping checkpoints in `folder`; `title` names the run."""
        self._task = task
        self._training = training
        self._strategy = strategy
        self._replicas = strategy.num_replicas_in_sync
        self._streams = {name: s.fitted(self._replicas) for name, s in task.streams.items()}
        target = self._streams["target"]
        self._total = total_steps(training, target.steps_per_epoch)
        self._eval_steps = training.eval_steps or max(
            math.ceil(target.steps_per_epoch), math.ceil(self._total / MOST_VALIDATIONS)
        )
        self._record_steps = max(1, self._eval_steps // RECORDS_A_VALIDATION)
        self._best_weights = folder / "best.weights.h5"
        with strategy.scope():
            self._schedule = Schedule(training, self._total)
            self._optimizer = make_optimizer(
                training, self._schedule, task.variables, task.multipliers
            )
            self._average = Average(
                training, self._total, _each_once([*task.model.variables, *task.variables])
            )
        self._checkpoints = Checkpoints(folder / "checkpoints", self._variables())
        self._state = State()
        self._steps_a_call = 1
        self._stages = task.stages or [Stage(0.0, lambda: None)]
        # The last stage has a step at least, however short the run.
        last = max(self._total - 1, 0)
        self._starts = [min(round(stage.start * self._total), last) for stage in self._stages]
        self._training_now: list[keras.Variable] = []
        self._names: list[str] = []
        self._predictor = Predictor(task.model, strategy)
        self._recorder = recorder
        self._progress = Progress(title, self._total, target.batch_size)

    def run(self) -> Result:
        """Train to the end, from the newest checkpoint where there is one.

        Raises:
            TransferError: the loss is not finite any more.
        """
        state = self._state = State(**(self._checkpoints.restore() or {}))
        self._recorder.resume(state.step)
        while state.step < self._total and not state.stopped:
            self._enter_stage()
            calls, end = self._calls(), self._stage_end()
            while state.step < end and not state.stopped:
                values = self._train_to(self._next_stop(), calls)
                at_validation = state.step % self._eval_steps == 0 or state.step == end
                if at_validation:
                    values |= self._validate()
                self._recorder.write(state.step, values)
                if at_validation:
                    self._checkpoints.save(state.step, asdict(state))
        self._progress.close()
        self._average.keep()
        if self._training.early_stopping and state.best_loss is not None:
            weights.assign(self._task.model, weights.load(self._best_weights).tensors)
        images = state.step * self._streams["target"].batch_size
        return Result(state.step, state.seconds, images / max(state.seconds, 1e-9))

    def _variables(self) -> list[keras.Variable]:
        """Return every variable that training changes, each once, in an order of its own."""
        everything = [*self._task.model.variables, *self._task.variables]
        everything += [*self._optimizer.variables, *self._schedule.variables]
        return _each_once([*everything, *self._average.variables])

    def _stage(self) -> int:
        """Return which stage the next step belongs to."""
        return max(i for i, start in enumerate(self._starts) if start <= self._state.step)

    def _stage_end(self) -> int:
        return [*self._starts[1:], self._total][self._stage()]

    def _enter_stage(self) -> None:
        """Set what trains from here on; a stage that begins here begins with a fresh optimizer.

        Adam's corrections count the steps since its moments were zero. Layers that thaw would take
        first steps three times too long if the count went on for them.
        """
        number, state = self._stage(), self._state
        self._stages[number].enter()
        self._training_now = [v for v in self._task.variables if v.trainable]
        if state.step == self._starts[number] and state.step:
            self._schedule.restart(state.step)
            for variable in self._optimizer.variables:
                variable.assign(tf.zeros(variable.shape, variable.dtype))
            state.since_best = state.since_decay = 0

    def _next_stop(self) -> int:
        """Return the next step after which something is recorded."""
        step = self._state.step
        due = [step - step % every + every for every in (self._record_steps, self._eval_steps)]
        return min(*due, self._stage_end())

    def _calls(self) -> Callable[[int], np.ndarray]:
        """Return a function that trains a number of steps and gives their figures.

        The result is (steps, 1 + names) float32: the loss, then what `self._names` says.
        """
        batches = {
            name: self._strategy.distribute_datasets_from_function(
                lambda context, stream=stream: stream.batches(self._state.step, self._replicas)
            )
            for name, stream in self._streams.items()
        }
        iterators = {name: iter(dataset) for name, dataset in batches.items()}

        @tf.function(reduce_retracing=True)
        def many(iterators: dict[str, Iterator], first: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
            figures = tf.TensorArray(tf.float32, steps, element_shape=[None])
            for number in tf.range(steps):
                batch = {name: next(iterator) for name, iterator in iterators.items()}
                values = self._strategy.run(self._replica_step, args=(batch,))
                mean = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None)
                figures = figures.write(number, mean)
                self._average.update(first + number + 1)
            return figures.stack()

        return lambda steps: many(
            iterators, tf.constant(self._state.step), tf.constant(steps)
        ).numpy()

    def _replica_step(self, batch: Batch) -> tf.Tensor:
        variables = [variable.value for variable in self._training_now]
        with tf.GradientTape() as tape:
            terms, figures = self._task.objective(batch)
            loss = tf.add_n(list(terms.values()))
            share = loss / self._replicas
        gradients = tape.gradient(share, variables)
        if self._training.clip_norm:
            # The norm to clip is that of the whole batch's gradient, so it is summed first. The
            # optimizer sums over the replicas again, hence the division.
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            gradients, _ = tf.clip_by_global_norm(gradients, self._training.clip_norm)
            gradients = [gradient / self._replicas for gradient in gradients]
        self._optimizer.apply(gradients, self._training_now)
        # One term is the loss itself, and recorded as that.
        shown = terms if len(terms) > 1 else {}
        self._names = [*shown, *figures]
        return tf.stack([loss, *shown.values(), *figures.values()])

    def _train_to(self, stop: int, calls: Callable[[int], np.ndarray]) -> dict[str, float]:
        """Train up to step `stop` and return the mean figures of the steps on the way there."""
        state = self._state
        first, stage, started = state.step, self._stage(), time.perf_counter()
        parts = []
        while state.step < stop:
            steps = min(stop - state.step, self._steps_a_call)
            before = time.perf_counter()
            parts.append(calls(steps))
            spent = time.perf_counter() - before
            self._steps_a_call = max(1, round(steps * SECONDS_A_CALL / max(spent, 1e-3)))
            state.step += steps
            self._progress.update(state.step, float(parts[-1][-1, 0]))
        state.seconds += time.perf_counter() - started
        figures = np.concatenate(parts).astype(np.float64)
        if not np.isfinite(figures).all():
            bad = first + 1 + int(np.argmin(np.isfinite(figures).all(axis=1)))
            self._progress.close()
            raise TransferError(
                f"the loss is not finite any more at step {bad} of {self._total};"
                " lower --learning_rate, or give --clip_norm"
            )
        means = zip(["loss", *self._names], figures.mean(axis=0).tolist(), strict=True)
        values = {f"train/{name}": mean for name, mean in means}
        if len(self._stages) > 1:
            values["train/stage"] = float(stage + 1)
        return values | {"train/learning_rate": float(self._schedule.at(state.step - 1))}

    def _validate(self) -> dict[str, float]:
        """Look at the validation images, note progress, and decide on decay and on stopping."""
        validation = self._task.validation
        if validation is None or len(validation.labels) == 0:
            return {}
        with self._average.in_place():
            return self._judge(validation)

    def _judge(self, validation: ImageSet) -> dict[str, float]:
        state, training = self._state, self._training
        outputs = self._predictor.predict(validation.images, self._task.image_size)
        labels = validation.labels
        log_likelihoods = log_softmax(outputs.logits.astype(np.float64), axis=1)
        loss = -float(log_likelihoods[np.arange(len(labels)), labels].mean())
        state.since_best += 1
        state.since_decay += 1
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.since_best, state.since_decay = loss, 0, 0
            if training.early_stopping:
                weights.save(self._best_weights, weights.tensors_of(self._task.model))
        if training.schedule == "plateau" and state.since_decay >= training.plateau_patience:
            self._schedule.factor.assign(self._schedule.factor * training.decay_rate)
            state.since_decay = 0
        patient = not training.early_stopping or state.since_best < training.early_stopping
        # Only the last stage ends early: what comes after another may do better yet.
        state.stopped = not patient and state.step > self._starts[-1]
        accuracy = float((outputs.logits.argmax(axis=1) == labels).mean())
        return {"validation/loss": loss, "validation/accuracy": accuracy}


def _each_once(variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    return list({id(variable): variable for variable in variables}.values())
