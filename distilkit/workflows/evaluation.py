"""`evaluate`: score models, files of answers and endpoints on one split, side by side."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distilkit import runs
from distilkit.config import FIDELITY, DistillConfig, EvaluateConfig, gates
from distilkit.data import datasets
from distilkit.data.datasets import TextData
from distilkit.data.files import read_through
from distilkit.data.inputs import Inputs, measure_inputs
from distilkit.engine.precision import Resolved, default_device, resolve_precision
from distilkit.errors import GateMissed, UserError
from distilkit.progress import SILENT, Reporter
from distilkit.reports.comparison import (
    Contestant,
    Pair,
    compare,
    coverage,
    mistakes,
    per_class,
    slices,
)
from distilkit.reports.statistics import (
    CONFIDENCE,
    REPLICATES,
    Answers,
    Interval,
    confusion,
    mcnemar,
    quality,
    reliability,
)
from distilkit.reports.summary import markdown
from distilkit.workflows.answering import (
    Answered,
    Loaded,
    answer,
    answer_from_endpoint,
    answer_from_file,
    load,
    using_threads,
)
from distilkit.workflows.glue import submit

SCHEMA = "distilkit.evaluation/2"
# Beside latency, by the names that gates use.
COSTS = ("parameters", "parameters_without_embeddings", "bytes", "rows_per_second", "peak_memory_bytes")
SNIPPET = 300  # characters of a text that is shown


@dataclass(frozen=True)
class Gate:
    """A threshold, or an earlier evaluation, held against one model."""

    model: str
    kind: Literal["fail_under", "fail_over", "baseline"]
    metric: str
    threshold: float
    value: float
    passed: bool
    why: str


@dataclass(frozen=True)
class Home:
    """Where a run learned: its own validation split, for what another dataset does to it."""

    dataset: str
    accuracy: float
    drop: float
    inputs: Inputs


@dataclass(frozen=True)
class Score:
    """One model, file or endpoint on the split; what does not apply to it is `None`."""

    answered: Answered
    figures: Mapping[str, Interval]
    teacher: str | None = None
    labels_only: str | None = None
    home: Home | None = None

    @property
    def model(self) -> str:
        """What it was called on the command line."""
        return self.answered.name

    def value(self, metric: str) -> float | None:
        """A figure by the name that gates use."""
        if metric in self.figures:
            return self.figures[metric].value
        return self.costs.get(metric)

    @property
    def costs(self) -> dict[str, float | None]:
        """Figures of cost, by the names that gates use."""
        cost = self.answered.cost
        found = {name: getattr(cost, name, None) for name in COSTS}
        for name in ("p50", "p95", "p99"):
            found[f"latency_{name}_ms"] = getattr(cost.latency, name) if cost.latency else None
        return found


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; `document()` is the JSON of `--json` and of the file in the run."""

    data: TextData
    split: str
    rows: int
    fingerprint: str
    device: str
    precision: Resolved
    threads: int
    seed: int
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    gates: tuple[Gate, ...] = ()

    def document(self) -> dict[str, Any]:
        """The versioned JSON document; README's section on it says what each part means."""
        labels = self.scores[0].answered.answers.labels
        counts = np.bincount(labels, minlength=len(self.data.names)).tolist()
        return {
            "schema": SCHEMA,
            "dataset": self.data.name,
            "split": self.split,
            "rows": self.rows,
            "fingerprint": self.fingerprint,
            "classes": [
                {"name": name, "rows": rows} for name, rows in zip(self.data.names, counts, strict=True)
            ],
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "confidence": CONFIDENCE,
            "replicates": REPLICATES,
            "seed": self.seed,
            "models": [self._entry(score) for score in self.scores],
            "pairs": [_pair_entry(pair) for pair in self.pairs],
            "gates": [asdict(gate) for gate in self.gates],
        }

    def _entry(self, score: Score) -> dict[str, Any]:
        answered = score.answered
        answers, loaded = answered.answers, answered.loaded
        surest = (
            {
                "coverage": coverage(answers, answers.confidence),
                "calibration": _calibration(answers, answers.confidence, loaded),
            }
            if answers.confidence is not None
            else {"coverage": None, "calibration": None}
        )
        return {
            "model": score.model,
            "kind": answered.kind,
            "architecture": type(loaded.model).__name__ if loaded else None,
            "fingerprint": loaded.fingerprint if loaded else None,
            "max_length": loaded.max_length if loaded else None,
            "teacher": score.teacher,
            "labels_only": score.labels_only,
            "metrics": {name: figure.value for name, figure in score.figures.items()},
            "intervals": {name: [figure.low, figure.high] for name, figure in score.figures.items()},
            "cost": {**score.costs, "speed_up": self._speed_up(score)},
            "inputs": asdict(answered.inputs) if answered.inputs else None,
            "home": asdict(score.home) if score.home else None,
            "per_class": per_class(answers, self.data.names),
            "confusion": confusion(answers, np.ones((1, self.rows)))[0].astype(int).tolist(),
            **surest,
            "slices": slices(answers, self._lengths, self.data.names),
            "mistakes": [self._row(answers, int(row)) for row in mistakes(answers)],
            "right": "".join(map(str, answers.right.astype(int).tolist())),
        }

    @property
    def _lengths(self) -> Any:
        columns = [self.data.texts(self.split), self.data.pairs(self.split) or []]
        counts = [np.asarray([len(text.split()) for text in read_through(column)]) for column in columns]
        return counts[0] + counts[1] if len(counts[1]) else counts[0]

    def _row(self, answers: Answers, row: int) -> dict[str, Any]:
        pairs = self.data.pairs(self.split)
        return {
            "row": row,
            "text": _cut(self.data.texts(self.split)[row]),
            "text_pair": None if pairs is None else _cut(pairs[row]),
            "label": self.data.names[int(answers.labels[row])],
            "answer": self.data.names[int(answers.answer[row])],
            "confidence": None if answers.confidence is None else float(answers.confidence[row]),
        }

    def _speed_up(self, score: Score) -> dict[str, float | None] | None:
        teacher = next((one for one in self.scores if one.model == score.teacher), None)
        if teacher is None:
            return None
        own, other = score.costs, teacher.costs
        return {
            "rows_per_second": _ratio(own["rows_per_second"], other["rows_per_second"]),
            "latency_p50_ms": _ratio(other["latency_p50_ms"], own["latency_p50_ms"]),
        }


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _cut(text: str) -> str:
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"


def _calibration(answers: Answers, confidence: Any, loaded: Loaded | None) -> dict[str, Any]:
    """The reliability diagram and, where a run divided its logits, what it would be like without that."""
    found: dict[str, Any] = {
        "bins": [asdict(one) for one in reliability(answers, confidence)],
        "temperature": loaded.temperature if loaded else None,
    }
    if found["temperature"] and answers.probabilities is not None:
        logits = np.log(answers.probabilities.clip(np.finfo(np.float64).tiny)) * found["temperature"]
        unscaled = np.exp(logits - logits.max(axis=1, keepdims=True))
        before = Answers.of(unscaled / unscaled.sum(axis=1, keepdims=True), answers.labels)
        figures = quality(before, np.ones((1, len(answers.labels))))
        found |= {f"{name}_unscaled": float(figures[name][0]) for name in ("ece", "brier", "loss")}
    return found


def _pair_entry(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": asdict(pair.difference),
        **asdict(pair.test),
        "sentence": pair.sentence,
    }


# --- the command ------------------------------------------------------------------------------------------


def evaluate(config: EvaluateConfig, reporter: Reporter = SILENT) -> Evaluation:
    """Score every model, file and endpoint of `config` on the same rows, each model with its own tokenizer.

    A model that is a run gets the result as `evaluation/<dataset>-<split>.json`.

    Raises:
        UserError: on anything wrong with options, data or models; labels of -1 are refused.
    """
    device = default_device()
    precision = resolve_precision(config.precision, device)
    _check_outputs(config)
    loaded = [load(name, config) for name in _model_names(config)]
    before = _read_baseline(config.baseline) if config.baseline else None
    names = [one.source.name for one in loaded] + [*config.predictions, *config.endpoint]
    teachers = [_teacher_of(place, names, loaded, config) for place in range(len(names))]
    _check_gates_can_be_met(config, loaded, teachers)
    data = datasets.load_for_evaluation(config, config.split, loaded[0].names if loaded else ())
    for note in data.notes:
        reporter.note(note)
    with using_threads(config.threads) as threads:
        answered = [answer(one, data, config, precision, device, reporter) for one in loaded]
        answered += [answer_from_file(file, data, config.split) for file in config.predictions]
        answered += [answer_from_endpoint(url, data, config, reporter) for url in config.endpoint]
        if config.glue_submission:
            submit(config.glue_submission, loaded[0], config, data, precision, device, reporter)
    baselines = _labels_only(names, loaded, config)
    contestants = [
        Contestant(one.name, one.answers, teachers[place], baselines if baselines != place else None)
        for place, one in enumerate(answered)
    ]
    figures, pairs = compare(contestants, config.seed)
    scores = tuple(
        Score(
            one,
            figures[place],
            None if contestant.teacher is None else names[contestant.teacher],
            names[contestant.labels_only]
            if "gap_recovered" in figures[place] and contestant.labels_only is not None
            else None,
            _home(one, data, figures[place], config, reporter),
        )
        for place, (one, contestant) in enumerate(zip(answered, contestants, strict=True))
    )
    measured = Evaluation(
        data=data,
        split=config.split,
        rows=len(data.labels_of[config.split]),
        fingerprint=data.fingerprint(config.split),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=precision,
        threads=threads,
        seed=config.seed,
        scores=scores,
        pairs=tuple(pairs),
    )
    measured = replace(measured, gates=(*_gates(config, scores), *_against(before, measured, config)))
    _write(measured, config, reporter)
    return measured


def _model_names(config: EvaluateConfig) -> list[str]:
    others = {*config.predictions, *config.endpoint}
    extra = [name for name in (config.teacher, config.labels_only) if name and name not in others]
    return list(dict.fromkeys([*config.models, *extra]))


def _teacher_of(place: int, names: list[str], loaded: list[Loaded], config: EvaluateConfig) -> int | None:
    if config.teacher:
        wanted = names.index(config.teacher)
        return None if wanted == place else wanted
    run = loaded[place].source.run if place < len(loaded) else None
    named = run.environment.get("teachers", []) if run else []
    if len(named) != 1:  # a mean of several is none of the models here
        return None
    return next(
        (i for i, one in enumerate(loaded) if i != place and one.fingerprint == named[0]["fingerprint"]),
        None,
    )


def _labels_only(names: list[str], loaded: list[Loaded], config: EvaluateConfig) -> int | None:
    """The student that had labels alone: the one that is named, else the only run at alpha 1."""
    if config.labels_only:
        return names.index(config.labels_only)
    runs_of = [(place, one.source.run.config) for place, one in enumerate(loaded) if one.source.run]
    found = [place for place, of in runs_of if isinstance(of, DistillConfig) and of.alpha == 1]
    return found[0] if len(found) == 1 else None


def _home(
    one: Answered, data: TextData, figures: Mapping[str, Interval], config: EvaluateConfig, reporter: Reporter
) -> Home | None:
    """What a run's own validation split is like, where this is another dataset."""
    run = one.loaded.source.run if one.loaded else None
    if one.loaded is None or run is None or run.config.data_name == data.name or not run.config.has_dataset:
        return None
    try:
        own = datasets.load_for_evaluation(run.config, "validation", one.loaded.names)
    except UserError as error:
        reporter.note(f"{one.name}: the data it was trained on cannot be compared with ({error})")
        return None
    texts, pairs = own.texts("validation"), own.pairs("validation")
    inputs = measure_inputs(one.loaded.tokenizer, texts, pairs, one.loaded.max_length)
    accuracy, here = run.metrics["validation"]["accuracy"], figures["accuracy"].value
    assert here is not None
    return Home(own.name, accuracy, accuracy - here, inputs)


def _write(measured: Evaluation, config: EvaluateConfig, reporter: Reporter) -> None:
    document = measured.document()
    if config.markdown:
        runs.write_text(config.markdown, markdown(document))
    sample = f"-{measured.rows}" if config.max_eval_samples else ""
    for score, entry in zip(measured.scores, document["models"], strict=True):
        run = score.answered.loaded.source.run if score.answered.loaded else None
        if run:
            file = run.path / runs.EVALUATION / f"{measured.data.name}-{config.split}{sample}.json"
            try:
                runs.write_json(file, document | {"models": [entry], "pairs": [], "gates": []})
            except OSError as error:
                reporter.note(f"{file} cannot be written ({error.strerror}); the result is printed only")


def _check_outputs(config: EvaluateConfig) -> None:
    """Refuse a place that cannot be written to before anything is scored."""
    if config.markdown:
        if config.markdown.is_dir():
            raise UserError(f"--markdown {config.markdown} is a folder. Give a file.")
        _make_folder(config.markdown.parent, f"--markdown {config.markdown}")
    if config.glue_submission:
        _make_folder(config.glue_submission, f"--glue-submission {config.glue_submission}")


def _make_folder(folder: Path, where: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{where}: {folder} cannot be made ({error.strerror}).") from None


# --- gates ------------------------------------------------------------------------------------------------


def check_gates(measured: Evaluation) -> None:
    """Raises `GateMissed` naming every gate that was not reached."""
    missed = [f"{gate.model}: {gate.why}" for gate in measured.gates if not gate.passed]
    if missed:
        raise GateMissed("; ".join(missed))


def _asked(config: EvaluateConfig) -> list[tuple[Literal["fail_under", "fail_over"], str, float]]:
    under = [("fail_under", *gate) for gate in gates(config.fail_under, "--fail-under")]
    over = [("fail_over", *gate) for gate in gates(config.fail_over, "--fail-over")]
    found: Any = under + over
    return list(found)


def _check_gates_can_be_met(config: EvaluateConfig, loaded: list[Loaded], teachers: list[int | None]) -> None:
    """Refuse, before anything is scored, a threshold on what no model here will have."""
    classes = len(loaded[0].names) if loaded else 0
    for kind, metric, threshold in _asked(config):
        if metric in FIDELITY and not any(teacher is not None for teacher in teachers):
            why = "no model here has a teacher to compare with. Put it among the models, or give --teacher."
        elif metric in ("f1", "precision", "recall") and classes > 2:
            why = f"it is for two classes, and there are {classes}. Use {metric}_macro."
        elif metric.startswith("latency") and not config.latency:
            why = "--no-latency leaves it out. Drop one of the two."
        else:
            continue
        raise UserError(f"--{kind.replace('_', '-')} {metric}={threshold:g}: {why}")


def _gates(config: EvaluateConfig, scores: tuple[Score, ...]) -> list[Gate]:
    held = []
    for kind, metric, threshold in _asked(config):
        known = [(score.model, value) for score in scores if (value := score.value(metric)) is not None]
        if not known:
            raise UserError(
                f"--{kind.replace('_', '-')} {metric}={threshold:g}: no model here has it on this split, "
                "so the gate would hold nothing. Leave it out."
            )
        for model, value in known:
            passed = value >= threshold if kind == "fail_under" else value <= threshold
            side = "under" if kind == "fail_under" else "over"
            why = f"{metric} {value:.4g} is {'not ' if passed else ''}{side} {threshold:g}"
            held.append(Gate(model, kind, metric, threshold, value, passed, why))
    return held


def _read_baseline(file: Path) -> dict[str, Any]:
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--baseline {file} cannot be read: {error}. Give what evaluate --json wrote."
        ) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UserError(f"--baseline {file} is not {SCHEMA}. Make it anew with evaluate --json.")
    return document


def _against(before: dict[str, Any] | None, measured: Evaluation, config: EvaluateConfig) -> list[Gate]:
    """Every model against the one of its name in the baseline, or the only one there is, row by row."""
    if before is None:
        return []
    if before["fingerprint"] != measured.fingerprint:
        raise UserError(
            f"--baseline {config.baseline} is of other rows ({before['dataset']} {before['split']}, "
            f"{before['rows']:,}) than these ({measured.data.name} {measured.split}, {measured.rows:,}). "
            "Evaluate the same split, or make the baseline anew."
        )
    entries = {entry["model"]: entry for entry in before["models"]}
    held = []
    for score in measured.scores:
        entry = entries.get(score.model)
        if entry is None and len(entries) == len(measured.scores) == 1:
            (entry,) = entries.values()
        if entry is None:
            continue
        right = np.asarray(list(entry["right"])) == "1"
        test = mcnemar(right, score.answered.answers.right)
        accuracy = score.value("accuracy")
        assert accuracy is not None
        worse = test.only_first > test.only_second and test.p_value < 1 - CONFIDENCE
        why = (
            f"accuracy {accuracy:.4f} is {'' if worse else 'not '}significantly below "
            f"the baseline's {right.mean():.4f} (McNemar, p = {test.p_value:.3g})"
        )
        held.append(Gate(score.model, "baseline", "accuracy", float(right.mean()), accuracy, not worse, why))
    if not held:
        raise UserError(
            f"--baseline {config.baseline} has {', '.join(entries)}, and none of these is scored here. "
            "Name models as they are named there."
        )
    return held
