"""Hold the result of `evaluate`, and build its document."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distilkit.data.checks import class_counts
from distilkit.data.inputs import Inputs
from distilkit.data.text_data import TextData
from distilkit.hardware.precision import Resolved
from distilkit.models.classifier import Classifier
from distilkit.reports.document import (
    SCHEMA,
    CalibrationEntry,
    ClassCount,
    ClassEntry,
    CostEntry,
    EvaluationDocument,
    Gate,
    InDomainScore,
    InputStatistics,
    MajorityEntry,
    MistakeEntry,
    ModelEntry,
    PairEntry,
    Provenance,
    SpeedUp,
)
from distilkit.scores.comparison import (
    Pair,
    constant_answer,
    coverage,
    majority,
    mistakes,
    per_class,
    slices,
)
from distilkit.scores.fallback import FallbackPoint, trace_fallback
from distilkit.scores.statistics import (
    CONFIDENCE,
    REPLICATES,
    Answers,
    Floats,
    Integers,
    Interval,
    confusion,
    quality,
    reliability,
)
from distilkit.workflows.evaluation.scoring import ModelScores

# Costs other than latency, by the names that gates use.
COSTS = ("parameters", "parameters_without_embeddings", "bytes", "rows_per_second", "peak_memory_bytes")
REPORT_COLUMNS = ("row", "source_row", "label")  # of answers.csv, before those of the data
MAX_TEXT_CHARACTERS = 300  # of a mistake's text


FALLBACK_POINTS = 20  # thresholds in the document; the picture has more


@dataclass(frozen=True)
class Score:
    """Hold the figures of one model, file or endpoint; what does not apply to it is `None`.

    Attributes:
        training_rows: how many of the rows the model was trained on.
        selection_rows: how many of the rows chose its epoch.
    """

    model_scores: ModelScores
    figures: Mapping[str, Interval]
    teacher: str | None = None
    labels_only: str | None = None
    in_domain: InDomainScore | None = None
    training_rows: int | None = None
    selection_rows: int | None = None

    @property
    def model(self) -> str:
        """Return its name on the command line."""
        return self.model_scores.name

    def value(self, metric: str) -> float | None:
        """Return a figure by the name that gates use."""
        if metric in self.figures:
            return self.figures[metric].value
        return self.costs.get(metric)

    @property
    def costs(self) -> dict[str, Any]:
        """Return the figures of cost by the names that gates use, each a number or `None`."""
        cost = self.model_scores.cost
        costs = {name: getattr(cost, name, None) for name in COSTS}
        for name in ("p50", "p95", "p99"):
            costs[f"latency_{name}_ms"] = getattr(cost.latency, name) if cost.latency else None
        return costs


@dataclass(frozen=True)
class Evaluation:
    """Hold what `evaluate` measured; `document()` is the JSON of `--json` and of the file in the run.

    `unwritten` tells of files that were asked for and could not be written.
    """

    data: TextData
    split: str
    rows: int
    fingerprint: str
    device: str
    precision: Resolved | None
    threads: int
    seed: int
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    gates: tuple[Gate, ...] = ()
    provenance: Provenance | None = None
    unwritten: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document."""
        return self.typed_document.as_dict()

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame` with a row per model: its figures of quality, fidelity and cost."""
        import pandas as pd

        rows = [
            {"model": score.model, "teacher": score.teacher}
            | {name: figure.value for name, figure in score.figures.items()}
            | score.costs
            for score in self.scores
        ]
        return pd.DataFrame(rows).set_index("model")

    @cached_property
    def typed_document(self) -> EvaluationDocument:
        """Return the document as reports and tables read it."""
        whole_rows = self.data.whole.get(self.split, self.rows)
        counts = class_counts(self.data.labels_of[self.split], len(self.data.names))
        return EvaluationDocument(
            schema_version=SCHEMA,
            dataset=self.data.name,
            split=self.split,
            rows=self.rows,
            sampled_from=whole_rows if whole_rows != self.rows else None,
            fingerprint=self.fingerprint,
            classes=[
                ClassCount(name=name, rows=rows) for name, rows in zip(self.data.names, counts, strict=True)
            ],
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            confidence=CONFIDENCE,
            replicates=REPLICATES,
            seed=self.seed,
            models=[self._model_entry(score) for score in self.scores],
            pairs=[_pair_entry(pair) for pair in self.pairs],
            gates=list(self.gates),
            majority=MajorityEntry(**asdict(majority(self.data.labels_of[self.split], self.data.names))),
            provenance=self.provenance,
        )

    def _model_entry(self, score: Score) -> ModelEntry:
        answers, classifier = score.model_scores.answers, score.model_scores.classifier
        confidence = answers.confidence
        return ModelEntry(
            model=score.model,
            kind=score.model_scores.kind,
            architecture=type(classifier.model).__name__ if classifier else None,
            fingerprint=classifier.fingerprint if classifier else None,
            max_length=classifier.max_length if classifier else None,
            teacher=score.teacher,
            labels_only=score.labels_only,
            metrics={name: figure.value for name, figure in score.figures.items()},
            intervals={name: (figure.low, figure.high) for name, figure in score.figures.items()},
            cost=CostEntry(**score.costs, speed_up=self._speed_up(score)),
            inputs=input_statistics(score.model_scores.inputs),
            in_domain=score.in_domain,
            per_class=[
                ClassEntry(
                    class_name=scores.name,
                    rows=scores.rows,
                    precision=scores.precision,
                    recall=scores.recall,
                    f1=scores.f1,
                )
                for scores in per_class(answers, self.data.names)
            ],
            confusion=confusion(answers, np.ones((1, self.rows)))[0].astype(int).tolist(),
            coverage=None if confidence is None else coverage(answers, confidence),
            calibration=None if confidence is None else _calibration_entry(answers, confidence, classifier),
            slices=slices(answers, self._lengths, self.data.names),
            mistakes=[self._mistake_entry(answers, int(row)) for row in mistakes(answers)],
            right="".join(map(str, answers.right.astype(int).tolist())),
            constant_answer=constant_answer(answers.answer, self.data.names),
            training_rows=score.training_rows,
            selection_rows=score.selection_rows,
            fallback=self._trace_fallback(score),
        )

    def _trace_fallback(self, score: Score) -> list[FallbackPoint] | None:
        answers, teacher = score.model_scores.answers, self._find_teacher(score)
        if teacher is None or answers.confidence is None:
            return None
        teacher_answers = teacher.model_scores.answers.answer
        return trace_fallback(
            answers.confidence, answers.answer, teacher_answers, answers.labels, FALLBACK_POINTS
        )

    def _find_teacher(self, score: Score) -> Score | None:
        return next((candidate for candidate in self.scores if candidate.model == score.teacher), None)

    @cached_property
    def _lengths(self) -> Integers:
        """Count the words of each row, int64 `[N]`; a pair counts as one text."""
        rows = self.data.texts(self.split).rows()
        return np.asarray([sum(len(text.split()) for text in row) for row in rows])

    def _mistake_entry(self, answers: Answers, row: int) -> MistakeEntry:
        texts = self.data.texts(self.split)
        return MistakeEntry(
            row=row + 1,
            source_row=int(self.data.source_rows[self.split][row]),
            text=_shorten(texts.first[row]),
            text_pair=None if texts.second is None else _shorten(texts.second[row]),
            label=self.data.names[int(answers.labels[row])],
            answer=self.data.names[int(answers.answer[row])],
            confidence=None if answers.confidence is None else float(answers.confidence[row]),
        )

    def _speed_up(self, score: Score) -> SpeedUp | None:
        teacher = self._find_teacher(score)
        if teacher is None:
            return None
        student_costs, teacher_costs = score.costs, teacher.costs
        return SpeedUp(
            rows_per_second=_ratio(student_costs["rows_per_second"], teacher_costs["rows_per_second"]),
            latency_p50_ms=_ratio(teacher_costs["latency_p50_ms"], student_costs["latency_p50_ms"]),
        )


def list_source_rows(data: TextData, split: str) -> Iterator[dict[str, Any]]:
    """Yield the number of each row in its source, and its texts by their columns."""
    columns = [column for column in (data.text_column, data.pair_column) if column]
    headings = [f"data {name}" if name in REPORT_COLUMNS else name for name in columns]
    for source_row, texts in zip(data.source_rows[split].tolist(), data.texts(split).rows(), strict=True):
        yield {"source_row": source_row} | dict(zip(headings, texts, strict=True))


def input_statistics(inputs: Inputs | None) -> InputStatistics | None:
    """Return what the document says of a model's inputs."""
    return InputStatistics(**asdict(inputs)) if inputs else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARACTERS else text[: MAX_TEXT_CHARACTERS - 1] + "…"


def _calibration_entry(
    answers: Answers, confidence: Floats, classifier: Classifier | None
) -> CalibrationEntry:
    """Return the reliability diagram and, where a run scales its logits, its figures without that."""
    bins = reliability(answers, confidence)
    temperature = classifier.temperature if classifier else None
    if not temperature or answers.probabilities is None:
        return CalibrationEntry(bins=bins, temperature=temperature)
    # The model's last layer already divides by the temperature, so multiplying undoes it.
    logits = np.log(answers.probabilities.clip(np.finfo(np.float64).tiny)) * temperature
    unscaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    before = Answers.from_probabilities(unscaled / unscaled.sum(axis=1, keepdims=True), answers.labels)
    figures = quality(before, np.ones((1, len(answers.labels))))
    return CalibrationEntry(
        bins=bins,
        temperature=temperature,
        ece_unscaled=float(figures["ece"][0]),
        brier_unscaled=float(figures["brier"][0]),
        loss_unscaled=float(figures["loss"][0]),
    )


def _pair_entry(pair: Pair) -> PairEntry:
    return PairEntry(
        first=pair.first,
        second=pair.second,
        difference=pair.difference,
        **asdict(pair.test),
        sentence=pair.sentence,
    )
