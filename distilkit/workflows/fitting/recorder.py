"""`RunRecorder`: what is written of a run, after each epoch and at the end."""

import shlex
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilkit.config import DistillConfig
from distilkit.config.fields import replace_values
from distilkit.config.fitting import RESUME_FIELDS
from distilkit.data.encoding import Encoded
from distilkit.engine.inference.logits import check_finite, has_lstm, predict_logits
from distilkit.engine.inference.padding import (
    check_model_supports,
    is_known_to_ignore_padding,
    padding_changes_logits,
)
from distilkit.engine.training.calibration import BOUNDS, divided_logits, fit_temperature
from distilkit.engine.training.checkpoints import Checkpoints, Position
from distilkit.engine.training.learners import LearnerState
from distilkit.errors import UserError, pluralize
from distilkit.hardware.cpu_formats import workload_of
from distilkit.hardware.device import name_device
from distilkit.hardware.kernels import forward_context
from distilkit.hardware.precision import lstm_precision, measured_speed
from distilkit.models.loading import check_savable, count_parameters, save_model
from distilkit.progress import Reporter
from distilkit.reports.summary import describe_temperature
from distilkit.runs import environment as environment_facts
from distilkit.runs import folder, run
from distilkit.runs.locating import weight_bytes
from distilkit.runs.records import (
    CalibrationFacts,
    CheckpointState,
    DatasetFacts,
    Environment,
    EpochRecord,
    RunMetrics,
    TrainingIdentity,
    TrainingMachine,
)
from distilkit.scores.comparison import constant_answer, describe_lack_of_skill, majority
from distilkit.scores.metrics import expected_calibration_error, score
from distilkit.stopping import is_stop_requested, raise_stop
from distilkit.workflows.fitting.checkpoint_folder import (
    CheckpointFolder,
    check_identity,
    describe_differences,
    load_sums,
)
from distilkit.workflows.fitting.job import Job

# What a training may be gone on with in another way: where things lie, and on which device.
NOT_IN_IDENTITY = ("output_dir", "overwrite", "data_dir", "device", *RESUME_FIELDS)
CALIBRATION_ROWS = 100  # with fewer, a temperature says more about these rows than about the student


class RunRecorder:
    """Write one run: configuration, history, best weights, calibration, metrics and environment.

    Everything goes into a draft, which becomes `output_dir` in `finish` and disappears in `discard`. Only
    checkpoints lie beside it, until `finish`.

    Args:
        job: the training that is recorded.
        train_rows: what it trains on.
        validation_rows: what picks its best epoch.
        device: where it trains.
        together: how many students share its steps.
    """

    def __init__(
        self,
        job: Job,
        train_rows: Encoded,
        validation_rows: Encoded,
        device: torch.device,
        reporter: Reporter,
        *,
        together: int = 1,
    ) -> None:
        self.job = job
        self._train_rows, self._validation_rows = train_rows, validation_rows
        self._device, self._reporter, self._together = device, reporter, together
        self._best: EpochRecord | None = None
        self._last_epoch = 0
        self._padding_matters: bool | None = None  # before it is checked
        self._logits: Tensor | None = None  # on validation rows, after the last epoch
        self._best_logits: Tensor | None = None
        self._best_weights: dict[str, Tensor] = {}
        self._best_key = ""  # of these weights in a checkpoint
        self._history: list[EpochRecord] = []
        config = job.config
        self.has_checkpoints = config.checkpoint_every is not None or config.resume
        self._folder = CheckpointFolder(config.output_dir)
        self._resumed: tuple[CheckpointState, dict[str, Tensor]] | None = None
        self._calibrates = (
            isinstance(config, DistillConfig) and config.calibrate and job.objective == "logits"
        )
        self._stack = ExitStack()

    def __enter__(self) -> "RunRecorder":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def open(self) -> None:
        """Make the draft, and print what is trained on and by which loss.

        Raises:
            UserError: when `output_dir` cannot receive the run.
        """
        job, config = self.job, self.job.config
        self._started, self._clock = environment_facts.now(), time.perf_counter()
        sizes = ", ".join(f"{split} {pluralize(len(rows), 'row')}" for split, rows in job.data.splits.items())
        self._reporter.note(f"data: {job.data.name}, {sizes}")
        self._reporter.note(job.formula)
        if self.has_checkpoints or self._folder.latest:
            self._stack.enter_context(self._folder.open(resume=config.resume))
        self._draft = self._stack.enter_context(run.writing(config.output_dir, config.overwrite))
        run.write_config(self._draft, replace_values(config, precision=job.precision))
        check_savable(job.model, self._draft)
        if job.objective == "logits" and not is_known_to_ignore_padding(job.model):
            check_model_supports(
                job.model.to(self._device),  # type: ignore[arg-type]
                self._validation_rows,
                job.precision,
                type(job.model).__name__,
            )
        if config.resume and self._folder.latest:
            self._restore()

    def _restore(self) -> None:
        """Take up what the latest checkpoint says of the run: its history and its best epoch.

        Raises:
            UserError: when it is of another training, or damaged.
        """
        job = self.job
        state, tensors, best = self._folder.read()
        check_identity(state.identity, self._identity, self._folder.path)
        if differences := describe_differences(state.machine, self._machine()):
            self._reporter.warn(
                f"--resume: {'; '.join(differences)}. The result may differ in its last bits from that of a "
                "run that was not stopped"
            )
        self._resumed = state, tensors
        self._started, self._clock = state.start, time.perf_counter() - state.total_seconds
        self._history, self._best_key = state.history, state.best_key
        for record in state.history:
            folder.append_line(self._draft / run.HISTORY, record.as_dict())
        if state.padding_matters is not None:
            self._note_padding(state.padding_matters)
        self._best_logits = best.pop("logits", None)
        self._best_weights = best
        epochs = self._epochs_of(job)
        if state.stage == job.objective and epochs:
            self._best, self._last_epoch = (
                [record for record in epochs if record.improved][-1],
                epochs[-1].epoch,
            )
            job.model.load_state_dict(best)
            self._save_model()
        self._reporter.note(f"resumed: {state.stage}, epoch {state.epoch}, after {state.steps} of its steps")

    def _epochs_of(self, stage: Job) -> list[EpochRecord]:
        return [record for record in self._history if record.stage in (None, stage.objective)]

    def is_past(self, stage: Job) -> bool:
        """Return whether the run was resumed in the stage after this one."""
        return self._resumed is not None and self._resumed[0].stage != stage.objective

    def checkpoints(self, stage: Job) -> Checkpoints | None:
        """Return when the training of a stage (`job` or its first) is saved, and where it goes on."""
        if not self.has_checkpoints:
            return None
        config = self.job.config
        checkpoints = Checkpoints(
            partial(self.checkpoint, stage), steps=config.checkpoint_steps, seconds=config.checkpoint_seconds
        )
        if self._resumed and not self.is_past(stage):
            state, tensors = self._resumed
            sums = load_sums(tensors, state.unmeasured, self._device)
            checkpoints.start = Position(state.epoch, state.steps, state.rows, sums, state.seconds)
            checkpoints.learner = LearnerState(tensors, state.learner)
            checkpoints.history = self._epochs_of(stage)
            self._resumed = None  # a later stage starts from its beginning, and the memory is free
        return checkpoints

    def checkpoint(self, stage: Job, position: Position, learner: LearnerState) -> None:
        """Write a checkpoint; where a signal asks to stop, say how to go on and raise its exception.

        Raises:
            UserError: when the disk refuses. The checkpoint before stays.
        """
        sums = {f"sums.{name}": value for name, value in position.sums.items() if value is not None}
        best_logits = {} if self._best_logits is None else {"logits": self._best_logits}
        state = CheckpointState(
            identity=self._identity,
            machine=self._machine(),
            stage=stage.objective,
            epoch=position.epoch,
            steps=position.steps,
            rows=position.rows,
            seconds=position.seconds,
            unmeasured=[name for name, value in position.sums.items() if value is None],
            learner=dict(learner.values),
            history=self._history,
            best_key=self._best_key,
            padding_matters=self._padding_matters,
            start=self._started,
            total_seconds=time.perf_counter() - self._clock,
        )
        self._folder.write(state, {**learner.tensors, **sums}, {**self._best_weights, **best_logits})
        if is_stop_requested():
            command = shlex.join(["distilkit", *(word for word in sys.argv[1:] if word != "--resume")])
            self._reporter.note(
                f"stopped in epoch {position.epoch} after {position.steps} of its steps; the checkpoint is "
                f"in {self._folder.path}. Go on with: {command} --resume"
            )
            raise_stop()

    @cached_property
    def _fingerprint(self) -> dict[str, str]:
        """Return the SHA-256 of the rows of each split, with their labels where they are read."""
        data = self.job.data
        labelled = {"validation"} | ({"train"} if self._train_rows.labels is not None else set())
        return {split: data.fingerprint(split, labels=split in labelled) for split in data.splits}

    @cached_property
    def _identity(self) -> TrainingIdentity:
        job = self.job
        config = job.config.model_dump(mode="json", exclude=set(NOT_IN_IDENTITY)) | {
            "precision": job.precision
        }
        return TrainingIdentity(
            config=config, dataset=self._fingerprint, facts=dict(job.facts), loss=job.formula
        )

    def _machine(self) -> TrainingMachine:
        versions = environment_facts.describe_versions()
        return TrainingMachine(
            versions={name: versions[name] for name in ("distilkit", "torch", "transformers", "accelerate")},
            threads=torch.get_num_threads(),
            device=name_device(self._device),
        )

    def take_best_weights(self) -> dict[str, Tensor]:
        """Return the best weights of the stage that is over."""
        weights, self._best_weights, self._best_key = self._best_weights, {}, ""
        return weights

    def validate(self) -> dict[str, float]:
        """Score the model on the validation rows."""
        job = self.job
        if job.objective == "layers":
            return layer_scores(job, self._validation_rows)
        self._check_batching()
        self._logits = predict_logits(job.model, self._validation_rows, precision=job.precision)
        check_finite(self._logits, f"{job.config.output_dir}", "validation", job.precision)
        labels = job.data.labels("validation")
        scores = score(self._logits, labels, with_mcc=job.metric == "mcc")
        if job.data.labelled_by_teacher:  # accuracy on its labels is agreement with it
            return {"agreement": scores["accuracy"], "loss": scores["loss"]}
        return scores

    def _check_batching(self) -> None:
        """Find out, once and after an epoch of training, whether padding changes what the model answers."""
        if self._padding_matters is None and not is_known_to_ignore_padding(self.job.model):
            self._note_padding(padding_changes_logits(self.job.model, self._validation_rows))

    def _note_padding(self, matters: bool) -> None:
        """Validate on batches of one length each where padding matters."""
        self._padding_matters = matters
        if matters:
            self._validation_rows = replace(self._validation_rows, needs_equal_lengths=True)
            self._reporter.note(
                f"{type(self.job.model).__name__}: its answers depend on padding. It is trained on padded "
                "batches, and validated on batches of one length each, which answer as each row alone"
            )

    def epoch(self, record: EpochRecord, stage: Job | None = None) -> None:
        """Append an epoch to the history; save the weights when they are the best so far.

        Args:
            stage: the job that the epoch belongs to where it is that of `job.first`.
        """
        epoch_job = stage or self.job
        assert epoch_job.config.epochs
        line = describe_epoch(record, epoch_job.config.epochs, epoch_job.metric)
        if stage is None and record.improved and self._best and self._is_tie(record, self._best):
            line += f", by validation loss {record.validation['loss']:.4f}"
        if self.job.first:
            record = record.model_copy(update={"stage": epoch_job.objective})
            line = f"{epoch_job.objective}: {line}"
        self._history.append(record)
        folder.append_line(self._draft / run.HISTORY, record.as_dict())
        self._reporter.note(line)
        if record.improved and (stage is not None or self._calibrates or self.has_checkpoints):
            # Later epochs will have changed them by the time they are read.
            weights = self.job.model.state_dict()
            self._best_weights = {name: value.cpu().clone() for name, value in weights.items()}
            self._best_key = f"{epoch_job.objective}-{record.epoch}"
        if stage is None:
            self._last_epoch = record.epoch
            if record.improved:
                self._best, self._best_logits = record, self._logits
                self._save_model()

    def _is_tie(self, record: EpochRecord, best: EpochRecord) -> bool:
        return record.validation[self.job.metric] == best.validation[self.job.metric]

    def finish(self) -> run.Run:
        """Calibrate the best weights, write metrics and environment, and move the draft to `output_dir`.

        Raises:
            UserError: when the disk refuses.
        """
        with self._stack:
            job, best = self.job, self._best
            assert best is not None
            calibration = self._calibrate()
            parameters, without_embeddings = count_parameters(job.model)
            metrics = RunMetrics(
                best_epoch=best.epoch,
                metric=job.metric,
                validation=best.validation | calibration.scores,
                parameters=parameters,
                parameters_without_embeddings=without_embeddings,
                bytes=weight_bytes(self._draft / run.MODEL),
                seconds=round(time.perf_counter() - self._clock, 2),
            )
            if calibration.note:
                self._reporter.note(f"calibration: {calibration.note}")
                metrics = metrics.model_copy(update={"calibration": calibration.facts})
            self._warn_of_lacking_skill()
            environment = self._environment()
            with folder.keeping(run.MODEL):
                folder.write_json(self._draft / run.METRICS, metrics.as_dict())
                folder.write_json(self._draft / run.ENVIRONMENT, environment.as_dict())
            return run.Run(self._draft).moved_to(job.config.output_dir)

    def discard(self, error: BaseException) -> UserError:
        """Remove the draft.

        Returns:
            `error`, or what to tell the user in its place. It holds no frames, which would hold the model.

        Raises:
            BaseException: `error`, when it is neither the user's nor the disk's.
        """
        try:
            with self._stack:
                raise error
        except UserError as problem:
            if self.has_checkpoints and self._folder.latest:
                problem = UserError(f"{problem} The checkpoint in {self._folder.path} stays.")
            return problem.with_traceback(None)
        except (KeyboardInterrupt, SystemExit) as stop:
            # Its frames would hold tensors until the interpreter ends, where torch aborts on freeing them.
            raise stop.with_traceback(None) from None

    def _warn_of_lacking_skill(self) -> None:
        """Say where the best epoch is no better than answering the most frequent class to every row."""
        job = self.job
        if self._best_logits is None or job.data.labelled_by_teacher:
            return
        labels, answer = job.data.labels_of["validation"], self._best_logits.argmax(dim=1).numpy()
        warning = describe_lack_of_skill(
            str(job.config.output_dir),
            float((answer == labels).mean()),
            constant_answer(answer, job.data.names),
            len(labels),
            majority(labels, job.data.names),
        )
        if warning:
            self._reporter.warn(warning)

    def _calibrate(self) -> "Calibration":
        """Divide the best weights' logits by a temperature that fits the validation split, where one does.

        Dividing changes no prediction: the accuracy stays what it is (Guo et al. 2017, section 4.2).
        """
        job = self.job
        if not self._calibrates:
            return Calibration()
        if job.data.labelled_by_teacher:
            return Calibration("there are no labels, so the student's probabilities are left as they are")
        assert self._best is not None and self._best_logits is not None
        all_labels = job.data.labels("validation")
        logits, labels = self._best_logits[all_labels >= 0], all_labels[all_labels >= 0]
        if len(labels) < CALIBRATION_ROWS:
            return Calibration(
                f"the validation split has {pluralize(len(labels), 'labelled row')}, which is under "
                f"{CALIBRATION_ROWS}, so the student's probabilities are left as they are"
            )
        temperature = fit_temperature(logits, labels)
        if temperature is None:
            low, high = BOUNDS
            return Calibration(
                f"no temperature within [{low:g}, {high:g}] is best on the validation split, "
                "so the student's probabilities are left as they are"
            )
        if self._best.epoch != self._last_epoch:
            job.model.load_state_dict(self._best_weights)
        inputs = self._validation_rows.inputs(np.arange(min(8, len(self._validation_rows))))
        device = next(job.model.parameters()).device
        inputs = {name: values.to(device) for name, values in inputs.items()}
        with forward_context(device, "fp32"), divided_logits(job.model, inputs, temperature) as is_divided:
            if is_divided:
                self._save_model()
        if not is_divided:
            return Calibration(
                f"the last layer of {type(job.model).__name__} does not scale its logits, so its "
                "probabilities are left as they are"
            )
        return Calibration.measure(logits, labels, temperature)

    def _save_model(self) -> None:
        new = self._draft / f"{run.MODEL}.new"
        save_model(self.job.model, self.job.tokenizer, new, self.job.config.max_length)
        with suppress(FileNotFoundError):
            shutil.rmtree(self._draft / run.MODEL)
        new.rename(self._draft / run.MODEL)

    def _environment(self) -> Environment:
        job, device = self.job, self._device
        speed = measured_speed(job.config.precision, device, workload_of(job.model, training=True))
        return Environment.model_validate(
            {
                "command": job.command,
                **environment_facts.describe_environment(),
                "device": name_device(device),
                "threads": torch.get_num_threads(),
                "trained_together": self._together,
                "precision": job.precision,
                **self._lstm_facts(),
                "precision_measured": speed,
                "seed": job.config.seed,
                "loss": job.formula,
                "dataset": DatasetFacts(
                    name=job.data.name,
                    rows={split: len(rows) for split, rows in job.data.splits.items()},
                    fingerprint=self._fingerprint,
                    notes=list(job.data.notes),
                ),
                **job.facts,
                "start": self._started,
                "end": environment_facts.now(),
            }
        )

    def _lstm_facts(self) -> dict[str, str]:
        """Return the format of an LSTM that cuDNN computes; a stack's is written out, in that of the rest."""
        if self._device.type != "cuda" or self._together > 1 or not has_lstm(self.job.model):
            return {}
        return {"lstm_precision": lstm_precision(self._device)}


@dataclass(frozen=True)
class Calibration:
    """What came of calibrating: a note for the user, facts and scores for `metrics.json`."""

    note: str = ""
    facts: CalibrationFacts | None = None

    @classmethod
    def measure(cls, logits: Tensor, labels: Tensor, temperature: float) -> "Calibration":
        """Measure what dividing `logits` `[N, C]` by `temperature` does to ECE and NLL."""
        scaled = logits / temperature
        facts = CalibrationFacts(
            temperature=temperature,
            ece_before=expected_calibration_error(logits, labels),
            ece=expected_calibration_error(scaled, labels),
            loss_before=score(logits, labels)["loss"],
            loss=score(scaled, labels)["loss"],
        )
        note = (
            f"the student's logits are {describe_temperature(temperature)}; ECE {facts.ece_before:.4f} -> "
            f"{facts.ece:.4f}, NLL {facts.loss_before:.4f} -> {facts.loss:.4f} "
            "(fitted on validation, so both figures are optimistic)"
        )
        return cls(note, facts)

    @property
    def scores(self) -> dict[str, float]:
        """Return the validation scores that calibration changes."""
        return {"loss": self.facts.loss} if self.facts else {}


def layer_scores(job: Job, rows: Encoded) -> dict[str, float]:
    """Return the mean losses between the layers of a job's pair; `layer_loss` is their total."""
    assert job.pair
    return job.pair.score(rows, job.precision)


def describe_epoch(record: EpochRecord, epochs: int, metric: str) -> str:
    """Describe an epoch in one line: loss and its parts, metrics, speed."""
    parts = [
        f"{name} {value:.4f}"
        for name, value in (
            ("hard", record.hard_loss),
            ("soft", record.soft_loss),
            ("layers", record.layer_loss),
        )
        if value is not None
    ]
    loss = f"loss {record.loss:.4f}" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")
    names = [name for name in dict.fromkeys((metric, "accuracy")) if name in record.validation]
    scores = "  ".join(f"{name} {record.validation[name]:.4f}" for name in names)
    return (
        f"epoch {record.epoch}/{epochs}  {loss}  validation {scores}  "
        f"{record.examples_per_second:,.0f} examples/s" + ("  best so far" if record.improved else "")
    )
