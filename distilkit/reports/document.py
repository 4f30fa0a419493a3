"""Define the evaluation document, schema distilkit.evaluation/2: `evaluate --json` prints it, runs keep it.

Written with `as_dict` and read back with `model_validate_json`. A field that does not apply to a model is
null; only the `*_unscaled` figures of a calibration are left out where no temperature was fitted. Intervals
are `[low, high]`, null where no bootstrap sample had the figure. Fields with a default were added later:
documents that lack them are read as well.
"""

from typing import Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from distilkit.runs.records import Record
from distilkit.scores.comparison import CoveragePoint, Slice
from distilkit.scores.fallback import FallbackPoint
from distilkit.scores.statistics import Bin, Interval

SCHEMA: Final = "distilkit.evaluation/2"


class ClassCount(Record):
    """Count the rows that are labelled with a class."""

    name: str
    rows: int


class MajorityEntry(Record):
    """Hold what the most frequent class would score as the answer to every row: the least to beat."""

    class_name: str = Field(validation_alias="class", serialization_alias="class")
    rows: int
    metrics: dict[str, float]


class Provenance(Record):
    """Say where, when and how an evaluation was made.

    Attributes:
        time: UTC, ISO 8601.
        data: the file that the rows were read from, or the place on the Hub.
        cpu: the processor's name, `None` where the system does not tell.
    """

    distilkit: str
    time: str
    command_line: list[str]
    data: str
    cpu: str | None
    platform: str
    versions: dict[str, str | None]
    git_commit: str | None


class InputStatistics(Record):
    """Describe how a tokenizer reads the rows; `truncated` and `unknown` are shares of rows and of tokens."""

    rows: int
    tokens_mean: float
    tokens_p95: float
    truncated: float
    unknown: float


class InDomainScore(Record):
    """Hold a run's score on the validation split of its own training data.

    `drop` is how much lower the accuracy on the evaluated data is; `inputs` is `None` where the run's data
    cannot be read.
    """

    dataset: str
    accuracy: float
    drop: float
    inputs: InputStatistics | None


class SpeedUp(Record):
    """Compare a model's speed with its teacher's: 2.0 is twice as fast."""

    rows_per_second: float | None
    latency_p50_ms: float | None


class CostEntry(Record):
    """List what a model costs to store and to run."""

    parameters: int | None
    parameters_without_embeddings: int | None
    bytes: int | None
    rows_per_second: float | None
    peak_memory_bytes: int | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    speed_up: SpeedUp | None

    def value(self, name: str) -> float | None:
        """Return a cost by its name, `None` where it was not measured or `name` is no cost."""
        value: float | None = getattr(self, name) if name in CostEntry.model_fields else None
        return value


class ClassEntry(Record):
    """Hold precision, recall and F1 of a class; `None` where nothing is to be divided by."""

    class_name: str = Field(validation_alias="class", serialization_alias="class")
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None


class CalibrationEntry(Record):
    """Hold the reliability diagram, and the figures without the temperature that the run fitted."""

    bins: list[Bin]
    temperature: float | None
    ece_unscaled: float | None = None
    brier_unscaled: float | None = None
    loss_unscaled: float | None = None


class MistakeEntry(Record):
    """Show a row with a wrong answer.

    Attributes:
        row: its position among the evaluated rows, from 1.
        source_row: its number in the file that it was read from, from 1, as in messages.
    """

    row: int
    source_row: int | None = None
    text: str
    text_pair: str | None
    label: str
    answer: str
    confidence: float | None


class ModelEntry(Record):
    """Hold everything measured of one model, predictions file or endpoint.

    Attributes:
        metrics: figures of quality and fidelity by name.
        confusion: `[C, C]`, rows with label i that were answered j.
        right: a digit per row, 1 where the answer is the label.
        constant_answer: the class that is its answer to every row.
        training_rows: how many of the rows its training split holds; `None` where that is not known.
        selection_rows: how many of the rows its validation split holds, which chose its epoch.
        fallback: what `serve` would answer if its teacher answered what it is less sure of, by threshold;
            `None` without a teacher or confidences.
    """

    model: str
    kind: Literal["model", "predictions", "endpoint"]
    architecture: str | None
    fingerprint: str | None
    max_length: int | None
    teacher: str | None
    labels_only: str | None
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float | None, float | None]]
    cost: CostEntry
    inputs: InputStatistics | None
    in_domain: InDomainScore | None = Field(validation_alias="home", serialization_alias="home")
    per_class: list[ClassEntry]
    confusion: list[list[int]]
    coverage: list[CoveragePoint] | None
    calibration: CalibrationEntry | None
    slices: list[Slice]
    mistakes: list[MistakeEntry]
    right: str = Field(pattern="^[01]*$")
    constant_answer: str | None = None
    training_rows: int | None = None
    selection_rows: int | None = None
    fallback: list[FallbackPoint] | None = None

    def value(self, name: str) -> float | None:
        """Return a figure of quality, fidelity or cost by its name."""
        return self.metrics[name] if name in self.metrics else self.cost.value(name)


class PairEntry(Record):
    """Compare two models on the same rows; `difference` is the second's accuracy less the first's."""

    first: str
    second: str
    difference: Interval
    both: int
    only_first: int
    only_second: int
    p_value: float
    sentence: str


class Gate(Record):
    """Record whether a model met a threshold, or is no worse than an earlier evaluation of it."""

    model: str
    kind: Literal["fail_under", "fail_over", "baseline"]
    metric: str
    threshold: float
    value: int | float | None  # parameters and bytes are written as whole numbers
    passed: bool
    why: str

    @property
    def name(self) -> str:
        """Return the gate as it was asked for, such as `fail-under accuracy=0.9`."""
        return f"{self.kind.replace('_', '-')} {self.metric}={self.threshold:g}"


class EvaluationDocument(Record):
    """Hold an evaluation of one or more models on one split.

    Attributes:
        sampled_from: rows of the whole split where only a sample was scored.
        replicates: bootstrap samples behind each interval.
    """

    schema_version: Literal["distilkit.evaluation/2"] = Field(
        validation_alias="schema", serialization_alias="schema"
    )
    dataset: str
    split: str
    rows: int
    sampled_from: int | None
    fingerprint: str
    classes: list[ClassCount]
    device: str
    precision: str | None
    threads: int
    confidence: float
    replicates: int
    seed: int
    models: list[ModelEntry]
    pairs: list[PairEntry]
    gates: list[Gate]
    majority: MajorityEntry | None = None
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _check_rows(self) -> "EvaluationDocument":
        for entry in self.models:
            if len(entry.right) != self.rows:
                raise ValueError(f"{entry.model} has answers to {len(entry.right)} of {self.rows} rows")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document, keys in the order of the schema; fields that were never set stay out."""
        # `exclude_unset`, not `exclude_none`: scripts rely on the nulls.
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def describe_error(error: ValidationError) -> str:
    """Return the first problem of a document that does not fit the schema, on one line."""
    problem = error.errors(include_url=False)[0]
    path = ".".join(map(str, problem["loc"]))[:100]
    message = problem["msg"][:300]
    return f"{path}: {message}" if path else message
