"""The training loop, shared by all methods, arms and strategies.

Many steps run in each call of a `tf.function`, with `strategy.run` inside. Between calls the loop
records, validates and stops early, at steps that depend only on the settings. It saves checkpoints
after any step, which has no effect on training. So a resumed run equals an uninterrupted one.
"""

import contextlib
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
from tl_keras.training.checkpoints import Checkpoints, Clock, from_json_figures, to_json_figures
from tl_keras.training.convergence import chance_loss, has_converged
from tl_keras.training.optimizers import Schedule, make_optimizer, reset_optimizer, total_steps
from tl_keras.training.progress import Progress
from tl_keras.training.steps import Call, Steps
from tl_keras.training.task import Stage, Task
from tl_keras.training.validation import Validator

SECONDS_PER_CALL = 0.5
MAX_VALIDATIONS = 20
RECORDS_PER_VALIDATION = 5
MIN_RECORDS = 40

FIGURES = "figures"
DEFAULT_PACE = Pace()


# A step, and the figures measured there, by names such as `train/loss`.
Record = tuple[int, dict[str, float]]


class Recorder(Protocol):
    """Receives the figures of a run."""

    def resume(self, records: Sequence[Record]) -> None:
        """Begin with the records of the checkpoint that the run resumes from."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at `step`."""

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Write `values` at `step` that differ between repetitions, such as timings."""


class Result(NamedTuple):
    """The result of a finished run.

    Attributes:
        steps: number of steps.
        seconds: training time.
        images_per_second: images of the target per second.
        converged: see `convergence`.
        is_best: whether the weights are those of the best validation, with their statistics.
    """

    steps: int
    seconds: float
    images_per_second: float
    converged: bool
    is_best: bool


@dataclass
class State:
    """The progress of a run: the checkpoint's content besides variables and validation."""

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
        pace: Pace = DEFAULT_PACE,
    ):
        """Prepare to train `task` with checkpoints in `folder`; `title` names the run.

        Raises:
            UsageError: a replica has no example in a batch.
        """
        self._task = task
        self._training = training
        self._strategy = strategy
        target = task.streams["target"].clamp_batch_size()
        distribution.check_shares(
            min(stream.clamp_batch_size().batch_size for stream in task.streams.values()), strategy
        )
        self._batch_size = target.batch_size
        self._total_steps = total_steps(training, target.steps_per_epoch)
        self._eval_steps = training.eval_steps or max(
            math.ceil(target.steps_per_epoch), math.ceil(self._total_steps / MAX_VALIDATIONS)
        )
        self._record_steps = max(
            1, min(self._eval_steps // RECORDS_PER_VALIDATION, self._total_steps // MIN_RECORDS)
        )
        with strategy.scope():
            self._schedule = Schedule(training, self._total_steps)
            scales_loss = precision.needs_loss_scaling(task.model)
            self._optimizer = make_optimizer(
                training, self._schedule, task.variables, task.multipliers, scales_loss=scales_loss
            )
            variables = _remove_duplicates([*task.model.variables, *task.variables])
            self._average = Average(training, self._total_steps, variables)
        clip_norm, total = training.clip_norm, self._total_steps
        self._steps = Steps(strategy, self._optimizer, self._average, clip_norm, total)
        self._validator = Validator(task, training, strategy, self._average, self._schedule)
        self._checkpoints = Checkpoints(folder / "checkpoints", self._list_variables())
        self._clock = Clock(pace)
        self._state = State()
        # (steps, figures) arrays of the calls since the last record.
        self._figures: list[np.ndarray] = []
        self._steps_per_call = 1
        self._stages = task.stages or [Stage(0.0, lambda: task)]
        # The last stage has at least one step.
        last = max(self._total_steps - 1, 0)
        self._starts = [min(round(stage.start * self._total_steps), last) for stage in self._stages]
        self._current_task = task
        # Seconds of training, and of waiting for input, since the last record.
        self._spent = self._waited = 0.0
        self._recorder = recorder
        self._progress = Progress(title, self._total_steps, target.batch_size)

    def run(self) -> Result:
        """Train to the end, from the newest checkpoint if there is one.

        Raises:
            DivergedError: the loss is not finite.
        """
        self._restore()
        state = self._state
        with interruption.graceful_stop(), contextlib.closing(self._progress):
            try:
                while state.step < self._total_steps and not state.stopped:
                    self._run_stage()
            except StoppedError:
                self._save()
                raise
            self._save()
        self._average.assign_averages()
        self._validator.keep_best()
        images = state.step * self._batch_size
        chance = chance_loss(self._task.streams["target"].chosen_labels)
        converged = has_converged(state.records, chance, self._starts[-1])
        rate = images / max(state.seconds, 1e-9)
        return Result(state.step, state.seconds, rate, converged, self._validator.has_best)

    def _run_stage(self) -> None:
        """Train to the end of a stage.

        Raises:
            StoppedError: a stop signal arrived.
        """
        state = self._state
        self._enter_stage()
        call, end = self._make_step_function(), self._stage_end(self._stage_index(state.step))
        while state.step < end and not state.stopped:
            if self._train(call):
                raise interruption.stopped_error()
            if self._clock.is_due(state.step):
                self._save()

    def _restore(self) -> None:
        """Restore the newest checkpoint, if there is one."""
        restored = self._checkpoints.restore()
        if restored is not None:
            record = dict(restored.record)
            self._validator.restore(record.pop("judge"), restored.arrays)
            records = [(step, from_json_figures(values)) for step, values in record.pop("records")]
            self._state = State(**record, records=records)
            if FIGURES in restored.arrays:
                self._figures = [restored.arrays[FIGURES]]
        self._clock.mark_saved(self._state.step, 0.0)
        self._recorder.resume(self._state.records)

    def _save(self) -> None:
        """Save the state, unless it is already saved or another process saves it."""
        if self._state.step == self._clock.saved_step or not cluster.current().is_chief:
            return
        started = time.perf_counter()
        record = {**asdict(self._state), "judge": self._validator.record()}
        record["records"] = [
            (step, to_json_figures(values)) for step, values in self._state.records
        ]
        arrays = self._validator.arrays()
        if self._figures:
            arrays[FIGURES] = np.concatenate(self._figures)
        self._checkpoints.save(self._state.step, record, arrays)
        self._clock.mark_saved(self._state.step, time.perf_counter() - started)

    def _list_variables(self) -> list[keras.Variable]:
        """Return every variable that training changes, without duplicates, in a fixed order."""
        everything = [*self._task.model.variables, *self._task.variables]
        everything += [*self._optimizer.variables, *self._schedule.variables]
        return _remove_duplicates([*everything, *self._average.variables])

    def _stage_index(self, step: int) -> int:
        """Return the index of the stage of the step after `step` steps."""
        return max(i for i, start in enumerate(self._starts) if start <= step)

    def _stage_end(self, stage: int) -> int:
        return [*self._starts[1:], self._total_steps][stage]

    def _enter_stage(self) -> None:
        """Enter the stage of the present step, with a reset optimizer at its first step.

        Adam's bias correction counts the steps since its moments were zero. With an old count, the
        first steps of newly unfrozen layers would be three times too large.
        """
        state = self._state
        number, started = self._stage_index(state.step), time.perf_counter()
        # Release the memory of the previous stage before this one is built.
        self._current_task = self._task
        self._validator.bind(self._current_task)
        self._current_task = self._stages[number].enter()
        self._validator.bind(self._current_task)
        state.seconds += time.perf_counter() - started
        if state.step == self._starts[number] and state.step:
            self._schedule.restart(state.step)
            reset_optimizer(self._optimizer)
            self._validator.reset_patience()

    def _next_record(self) -> int:
        """Return the next step with a record."""
        step = self._state.step
        due = [step - step % every + every for every in (self._record_steps, self._eval_steps)]
        return min(*due, self._stage_end(self._stage_index(step)))

    def _make_step_function(self) -> Callable[[int, int], Call]:
        """Return the step function of this stage."""
        trainable = [variable for variable in self._task.variables if variable.trainable]
        return self._steps.make_step_function(self._state.step, self._current_task, trainable)

    def _train(self, call: Callable[[int, int], Call]) -> bool:
        """Train in one call, at most to the next record; return whether a stop is requested."""
        state, record = self._state, self._next_record()
        steps = min(record - state.step, self._steps_per_call)
        steps = self._clock.limit_steps(state.step, steps)
        started = time.perf_counter()
        figures, waited = call(state.step, steps)
        spent = time.perf_counter() - started
        steps_per_call = max(1, round(steps * SECONDS_PER_CALL / max(spent, 1e-3)))
        # All processes of a cluster must agree.
        stop_requested, self._steps_per_call = cluster.current().agree_on_stop(
            interruption.stop_requested(), steps_per_call
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
        return stop_requested

    def _check_finite(self, figures: np.ndarray) -> None:
        finite = np.isfinite(figures).all(axis=1)
        if not finite.all():
            raise DivergedError(
                f"the loss is not finite at step {self._state.step + 1 + finite.argmin()}"
                f" of {self._total_steps}"
            )

    def _record(self) -> None:
        """Record the means of the steps since the last record; validate if it is due."""
        state = self._state
        means = np.concatenate(self._figures).astype(np.float64).mean(axis=0).tolist()
        self._figures = []
        values = {
            f"train/{name}": mean
            for name, mean in zip(["loss", *self._steps.names], means, strict=True)
        }
        stage = self._stage_index(state.step - 1)
        if len(self._stages) > 1:
            values["train/stage"] = float(stage + 1)
        values["train/learning_rate"] = float(self._schedule.at(state.step - 1))
        if state.step % self._eval_steps == 0 or state.step == self._stage_end(stage):
            values |= self._validator.evaluate()
            # Only the last stage stops early, because later stages may improve the result.
            state.stopped = self._validator.should_stop and state.step > self._starts[-1]
        state.records.append((state.step, values))
        self._recorder.write(state.step, values)
        # Timings differ between repetitions, so they go to TensorBoard only.
        self._recorder.watch(state.step, {"train/input_wait": self._waited / self._spent})
        self._spent = self._waited = 0.0


def _remove_duplicates(variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    return list({id(variable): variable for variable in variables}.values())
