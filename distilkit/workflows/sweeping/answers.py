"""Find the validation rows that each run of a sweep has right, and the teacher's score on them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from distilkit.config import DistillConfig, EvaluateConfig
from distilkit.config.data import TextsConfig
from distilkit.config.fields import field_infos, make_config
from distilkit.data import sources
from distilkit.data.labels import match_labels
from distilkit.data.text_data import TextData
from distilkit.engine.inference.latency import measure_latency
from distilkit.engine.inference.logits import answering, check_finite, low_precision_copy
from distilkit.hardware.cpu_formats import describe_machine, workload_of
from distilkit.hardware.device import default_device, name_device
from distilkit.hardware.precision import Resolved, resolve_precision
from distilkit.models.classifier import Classifier
from distilkit.progress import SILENT, Reporter
from distilkit.reports.sweep_document import TeacherEntry
from distilkit.runs.folder import read_object, write_json
from distilkit.runs.locating import find_model
from distilkit.runs.run import CONFIG
from distilkit.scores import metrics
from distilkit.scores.sweeps import Rows
from distilkit.workflows.evaluation.scoring import load, read_all

SCHEMA: Final = "distilkit.sweep-answers/1"
SPLIT: Final = "validation"
MAX_ACCURACY_CHANGE = 0.02  # by which rounding in another number format may move a run's accuracy


@dataclass(frozen=True)
class SweepAnswers:
    """Hold what the runs of a sweep answer.

    Attributes:
        right: bool `[N]` by run folder, the validation rows that the run has right.
        teacher: its score on the same rows; of several teachers, that of their weighted mean.
        latencies: median milliseconds of a single row, by run folder, of those that were timed.
    """

    right: dict[Path, Rows]
    teacher: TeacherEntry | None
    latencies: dict[Path, float] = field(default_factory=dict)


def correct_rows(
    folders: Sequence[Path],
    teachers: Sequence[str],
    config: DistillConfig,
    file: Path,
    metric: str = "accuracy",
    reporter: Reporter = SILENT,
    timed: Collection[Path] = (),
) -> SweepAnswers:
    """Return which validation rows each run has right; what is in `file` already is not computed again.

    Nothing is written into the runs. A run whose accuracy is not the one that it was saved with has seen
    other rows; it is left out, with a note.

    Args:
        folders: finished runs of one dataset.
        teachers: names as `distill` takes them; none where the sweep has no teacher.
        config: of any of the runs, for the data options, the precision and the weights of the teachers.
        file: JSON that keeps the answers, made if need be.
        metric: what the teacher's score is.
        timed: the runs whose latency is measured, if it was not on this machine.

    Raises:
        UserError: when data or a model cannot be read, or the split has no labels.
    """
    if not folders:
        return SweepAnswers({}, None)
    evaluation = _evaluation_config(config, [*map(str, folders), *teachers])
    first = load(str(folders[0]), evaluation)
    data = sources.load_for_evaluation(evaluation, SPLIT, [first.class_names])
    with _keeping_answers(file, data.fingerprint(SPLIT)) as answers:
        right = {}
        for done, folder in enumerate(folders, start=1):
            compute = partial(_score_run, folder, evaluation, data)
            entry = _look_up(answers, _digest(str(folder)), compute)
            reporter.advance("validation answers", done, len(folders))
            if _is_as_saved(folder, entry, reporter):
                right[folder] = np.array([digit == "1" for digit in entry["right"]], dtype=np.bool_)
        teacher = _score_teachers(teachers, config, evaluation, data, answers, metric, reporter)
        latencies = {
            folder: float(
                _look_up(
                    answers,
                    f"latency of {_digest(str(folder))} on {_describe_device()}",
                    partial(_time_run, folder, evaluation, data),
                )["p50_ms"]
            )
            for folder in timed
        }
    return SweepAnswers(right, teacher, latencies)


def _describe_device() -> str:
    device = default_device()
    return describe_machine() if device.type == "cpu" else name_device(device)


def _evaluation_config(config: DistillConfig, names: Sequence[str]) -> EvaluateConfig:
    """Return a config of `evaluate` for the same rows; each model reads as many tokens as it did."""
    options = {name: getattr(config, name) for name in (*field_infos(TextsConfig), "max_eval_samples")}
    return make_config(
        EvaluateConfig,
        {**options, "models": tuple(names), "precision": config.precision, "latency": False},
    )


# --- answers that are kept --------------------------------------------------------------------------------


@contextmanager
def _keeping_answers(file: Path, fingerprint: str) -> Iterator[dict[str, Any]]:
    """Yield what `file` holds by model, nothing where it is of other rows; write what was added."""
    saved = read_object(file)
    is_same = saved.get("schema") == SCHEMA and saved.get("data") == fingerprint
    models = saved.get("models") if is_same else None
    answers: dict[str, Any] = dict(models) if isinstance(models, dict) else {}
    before = len(answers)
    try:
        yield answers
    finally:
        if len(answers) > before:
            write_json(file, {"schema": SCHEMA, "data": fingerprint, "models": answers})


def _look_up(answers: dict[str, Any], key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if key not in answers:
        answers[key] = compute()
    entry: dict[str, Any] = answers[key]
    return entry


def _digest(name: str) -> str:
    """Return the SHA-256 of a model's files and of its run's options: not of its path, as runs are moved."""
    source = find_model(name)
    files = sorted(path for path in source.folder.rglob("*") if path.is_file())
    if source.run:
        files.append(source.run.path / CONFIG)
    digest = sha256()
    for path in files:
        with path.open("rb") as stream:
            digest.update(path.name.encode() + b"\0" + file_digest(stream, "sha256").digest())
    return digest.hexdigest()


# --- scores -----------------------------------------------------------------------------------------------


def _time_run(folder: Path, config: EvaluateConfig, data: TextData) -> dict[str, Any]:
    classifier = load(str(folder), config)
    assert classifier.max_length
    model, precision = _load_onto_device(classifier, config)
    with answering(
        model, classifier.tokenizer, max_length=classifier.max_length, precision=precision
    ) as answer:
        return {"p50_ms": measure_latency(answer, data.texts(SPLIT)).p50}


def _score_run(folder: Path, config: EvaluateConfig, data: TextData) -> dict[str, Any]:
    return _describe_answers(_read_logits(load(str(folder), config), config, data), data)


def _describe_answers(logits: torch.Tensor, data: TextData) -> dict[str, Any]:
    labels = torch.as_tensor(data.labels_of[SPLIT])
    right = (logits.argmax(dim=1) == labels).tolist()
    return {
        "right": "".join("1" if is_right else "0" for is_right in right),
        "validation": metrics.score(logits, labels, with_mcc=True),
    }


def _read_logits(classifier: Classifier, config: EvaluateConfig, data: TextData) -> torch.Tensor:
    """Return the logits of the split, float32 `[N, C]`, in the data's order of classes."""
    class_order, _ = match_labels(classifier.class_names, data.names, classifier.name)
    model, precision = _load_onto_device(classifier, config)
    logits = read_all(model, classifier, data.texts(SPLIT), precision)
    check_finite(logits, classifier.name, SPLIT, precision)
    return logits[:, class_order].cpu().float()


def _load_onto_device(classifier: Classifier, config: EvaluateConfig) -> tuple[torch.nn.Module, Resolved]:
    """Return the model on the device, in the precision that suits it, and that precision."""
    device = default_device()
    workload = workload_of(classifier.model, training=False)
    precision = resolve_precision(config.precision, device, workload)
    return low_precision_copy(classifier.model, precision, device).to(device), precision


def _is_as_saved(folder: Path, entry: dict[str, Any], reporter: Reporter) -> bool:
    run = find_model(str(folder)).run
    saved = run.read_metrics().validation.get("accuracy") if run else None
    accuracy = entry["validation"]["accuracy"]
    if saved is None or abs(saved - accuracy) <= MAX_ACCURACY_CHANGE:
        return True
    reporter.note(
        f"{folder}: its accuracy on the validation split is {accuracy:.4f} and was {saved:.4f} when it was "
        "trained, so its rows are left out of the bootstrap; the data or the run have changed since"
    )
    return False


def _score_teachers(
    names: Sequence[str],
    config: DistillConfig,
    evaluation: EvaluateConfig,
    data: TextData,
    answers: dict[str, Any],
    metric: str,
    reporter: Reporter,
) -> TeacherEntry | None:
    """Score the teachers' weighted mean logits, as students learned from them."""
    if not names:
        return None
    if files := [name for name in names if Path(name).is_file()]:
        reporter.note(f"the teacher {files[0]} is a file of answers, so it has no score here")
        return None
    weights = config.teacher_weight or (1.0,) * len(names)

    def compute() -> dict[str, Any]:
        mean = torch.zeros(len(data.labels_of[SPLIT]), len(data.names))
        for name, weight in zip(names, weights, strict=True):
            mean += weight / sum(weights) * _read_logits(load(name, evaluation), evaluation, data)
        return _describe_answers(mean, data)

    key = "+".join(f"{weight:g}*{_digest(name)}" for name, weight in zip(names, weights, strict=True))
    validation = _look_up(answers, key, compute)["validation"]
    return TeacherEntry(name=", ".join(names), score=validation[metric], validation=validation)
