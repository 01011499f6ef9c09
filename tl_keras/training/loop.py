"""The training loop. There is one: for every method, arm and strategy.

Many steps run in each call of a `tf.function`, with `strategy.run` inside. Between calls the loop
records, validates and stops early, on steps that depend on the settings alone; and it saves, which
changes nothing and may come after any step. So a continued run does what an uninterrupted one does.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from tl_keras.config import Training
from tl_keras.config.pace import Pace
from tl_keras.distributed import cluster, distribution
from tl_keras.errors import DivergedError, StoppedError
from tl_keras.models import precision
from tl_keras.runtime import interruption
from tl_keras.storage import crash_points
from tl_keras.training.averaging import Average
from tl_keras.training.checkpoints import Checkpoints, Clock, known, plain
from tl_keras.training.convergence import chance_loss, has_converged
from tl_keras.training.optimizers import Schedule, forget, make_optimizer, total_steps
from tl_keras.training.progress import Progress
from tl_keras.training.steps import Call, Steps
from tl_keras.training.task import Stage, Task
from tl_keras.training.validation import Validator

SECONDS_PER_CALL = 0.5
MAX_VALIDATIONS = 20
RECORDS_PER_VALIDATION = 5
MIN_RECORDS = 40

FIGURES = "figures"
USUAL = Pace()


# What was measured after a number of steps, by names such as `train/loss`.
Record = tuple[int, dict[str, float]]


class Recorder(Protocol):
    """Who is told of the run's figures."""

    def resume(self, records: Sequence[Record]) -> None:
        """Begin, with what was recorded up to the state the run goes on from, and no more."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at `step`."""

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Show `values` at `step`, which are not the same when the run is repeated."""


class Result(NamedTuple):
    """What a finished run took.

    Attributes:
        steps: that were taken.
        seconds: of training.
        images_per_second: of the target's.
        converged: see `convergence`.
        is_best: whether the weights are those that validated best, with their statistics.
    """

    steps: int
    seconds: float
    images_per_second: float
    converged: bool
    is_best: bool


@dataclass
class State:
    """How far a run is: what a checkpoint holds besides variables and what the judge knows."""

    step: int = 0
    seconds: float = 0.0
    stopped: bool = False
    records: list[Record] = field(default_factory=list)


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
        pace: Pace = USUAL,
    ):
        """Prepare to train `task`, keeping checkpoints in `folder`; `title` names the run.

        Raises:
            UsageError: some replica would have no example in a batch.
        """
        self._task = task
        self._training = training
        self._strategy = strategy
        target = task.streams["target"].clamp_batch_size()
        distribution.check_shares(
            min(stream.clamp_batch_size().batch_size for stream in task.streams.values()), strategy
        )
        self._batch_size = target.batch_size
        self._total = total_steps(training, target.steps_per_epoch)
        self._eval_steps = training.eval_steps or max(
            math.ceil(target.steps_per_epoch), math.ceil(self._total / MAX_VALIDATIONS)
        )
        self._record_steps = max(
            1, min(self._eval_steps // RECORDS_PER_VALIDATION, self._total // MIN_RECORDS)
        )
        with strategy.scope():
            self._schedule = Schedule(training, self._total)
            scales_loss = precision.needs_loss_scaling(task.model)
            self._optimizer = make_optimizer(
                training, self._schedule, task.variables, task.multipliers, scales_loss=scales_loss
            )
            self._average = Average(
                training, self._total, _each_once([*task.model.variables, *task.variables])
            )
        clip_norm, total = training.clip_norm, self._total
        self._steps = Steps(strategy, self._optimizer, self._average, clip_norm, total)
        self._validator = Validator(task, training, strategy, self._average, self._schedule)
        self._checkpoints = Checkpoints(folder / "checkpoints", self._variables())
        self._clock = Clock(pace)
        self._state = State()
        # (steps, figures) of the calls since the last record.
        self._figures: list[np.ndarray] = []
        self._steps_a_call = 1
        self._stages = task.stages or [Stage(0.0, lambda: task)]
        # The last stage has a step at least, however short the run.
        last = max(self._total - 1, 0)
        self._starts = [min(round(stage.start * self._total), last) for stage in self._stages]
        # What this stage computes.
        self._now = task
        # Seconds since the last record, and those of them in which the model waited for input.
        self._spent = self._waited = 0.0
        self._recorder = recorder
        self._progress = Progress(title, self._total, target.batch_size)

    def run(self) -> Result:
        """Train to the end, from the newest checkpoint where there is one.

        Raises:
            DivergedError: the loss is not finite any more.
        """
        self._restore()
        state = self._state
        with interruption.graceful_stop():
            try:
                while state.step < self._total and not state.stopped:
                    self._run_stage()
            except StoppedError:
                self._save()
                self._progress.close()
                raise
            self._save()
        self._progress.close()
        self._average.keep()
        self._validator.keep_best()
        images = state.step * self._batch_size
        chance = chance_loss(self._task.streams["target"].chosen_labels)
        converged = has_converged(state.records, chance, self._starts[-1])
        rate = images / max(state.seconds, 1e-9)
        return Result(state.step, state.seconds, rate, converged, self._validator.has_best)

    def _run_stage(self) -> None:
        """Train to the end of a stage.

        Raises:
            StoppedError: the process was told to stop.
        """
        state = self._state
        self._enter_stage()
        call, end = self._call(), self._end(self._stage(state.step))
        while state.step < end and not state.stopped:
            if self._train(call):
                raise interruption.stopped_error()
            if self._clock.is_due(state.step):
                self._save()

    def _restore(self) -> None:
        """Go on from the newest checkpoint, or from the beginning."""
        restored = self._checkpoints.restore()
        if restored is not None:
            record = dict(restored.record)
            self._validator.restore(record.pop("judge"), restored.arrays)
            records = [(step, known(values)) for step, values in record.pop("records")]
            self._state = State(**record, records=records)
            if FIGURES in restored.arrays:
                self._figures = [restored.arrays[FIGURES]]
        self._clock.saved(self._state.step, 0.0)
        self._recorder.resume(self._state.records)

    def _save(self) -> None:
        """Write the state as it is now, unless it is on the disk, or another process does so."""
        if self._state.step == self._clock.saved_step or not cluster.current().is_chief:
            return
        started = time.perf_counter()
        record = {**asdict(self._state), "judge": self._validator.record()}
        record["records"] = [(step, plain(values)) for step, values in self._state.records]
        arrays = self._validator.arrays()
        if self._figures:
            arrays[FIGURES] = np.concatenate(self._figures)
        self._checkpoints.save(self._state.step, record, arrays)
        self._clock.saved(self._state.step, time.perf_counter() - started)

    def _variables(self) -> list[keras.Variable]:
        """Return every variable that training changes, each once, in an order of its own."""
        everything = [*self._task.model.variables, *self._task.variables]
        everything += [*self._optimizer.variables, *self._schedule.variables]
        return _each_once([*everything, *self._average.variables])

    def _stage(self, step: int) -> int:
        """Return which stage the step after `step` steps belongs to."""
        return max(i for i, start in enumerate(self._starts) if start <= step)

    def _end(self, stage: int) -> int:
        return [*self._starts[1:], self._total][stage]

    def _enter_stage(self) -> None:
        """Set what trains from here on; a stage that begins here begins with a fresh optimizer.

        Adam's corrections count the steps since its moments were zero. Layers that thaw would take
        first steps three times too long if the count went on for them.
        """
        state = self._state
        number, started = self._stage(state.step), time.perf_counter()
        # What the stage before computed takes no memory while this one's is made.
        self._now = self._task
        self._validator.bind(self._now)
        self._now = self._stages[number].enter()
        self._validator.bind(self._now)
        state.seconds += time.perf_counter() - started
        if state.step == self._starts[number] and state.step:
            self._schedule.restart(state.step)
            forget(self._optimizer)
            self._validator.reset_patience()

    def _next_record(self) -> int:
        """Return the next step after which something is recorded."""
        step = self._state.step
        due = [step - step % every + every for every in (self._record_steps, self._eval_steps)]
        return min(*due, self._end(self._stage(step)))

    def _call(self) -> Callable[[int, int], Call]:
        """Return what takes the steps of this stage."""
        moving = [variable for variable in self._task.variables if variable.trainable]
        return self._steps.make_step_function(self._state.step, self._now, moving)

    def _train(self, call: Callable[[int, int], Call]) -> bool:
        """Train in one call, to the next record at most; return whether to stop, as told."""
        state, record = self._state, self._next_record()
        steps = min(record - state.step, self._steps_a_call)
        steps = self._clock.at_most(state.step, steps)
        started = time.perf_counter()
        figures, waited = call(state.step, steps)
        spent = time.perf_counter() - started
        steps_a_call = max(1, round(steps * SECONDS_PER_CALL / max(spent, 1e-3)))
        # All of them have to come to the same.
        told, self._steps_a_call = cluster.current().agree_on_stop(
            interruption.stop_requested(), steps_a_call
        )
        self._check_finite(figures)
        state.step += steps
        state.seconds += spent
        self._spent += spent
        self._waited += waited
        self._figures.append(figures)
        crash_points.maybe_crash("steps trained")
        self._progress.update(state.step, float(figures[-1, 0]))
        if state.step == record:
            self._record()
        return told

    def _check_finite(self, figures: np.ndarray) -> None:
        finite = np.isfinite(figures).all(axis=1)
        if not finite.all():
            self._progress.close()
            raise DivergedError(
                f"the loss is not finite any more at step {self._state.step + 1 + finite.argmin()}"
                f" of {self._total}"
            )

    def _record(self) -> None:
        """Record the means of the steps since the last record; validate where it is time to."""
        state = self._state
        means = np.concatenate(self._figures).astype(np.float64).mean(axis=0).tolist()
        self._figures = []
        values = {
            f"train/{name}": mean
            for name, mean in zip(["loss", *self._steps.names], means, strict=True)
        }
        stage = self._stage(state.step - 1)
        if len(self._stages) > 1:
            values["train/stage"] = float(stage + 1)
        values["train/learning_rate"] = float(self._schedule.at(state.step - 1))
        if state.step % self._eval_steps == 0 or state.step == self._end(stage):
            values |= self._validator.evaluate()
            # Only the last stage ends early: what comes after another may do better yet.
            state.stopped = self._validator.should_stop and state.step > self._starts[-1]
        state.records.append((state.step, values))
        self._recorder.write(state.step, values)
        # Of this very run and machine: it stands in TensorBoard, and in no file that is compared.
        self._recorder.watch(state.step, {"train/input_wait": self._waited / self._spent})
        self._spent = self._waited = 0.0


def _each_once(variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    return list({id(variable): variable for variable in variables}.values())
