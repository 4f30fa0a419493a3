"""Define the budget document, schema distilkit.budget/1: `fit --json` prints it, its report keeps it.

Shares and accuracies are between 0 and 1, intervals are `[low, high]` or null.
"""

from typing import Any, Final, Literal

from pydantic import Field

from distilkit.runs.records import Record

SCHEMA: Final = "distilkit.budget/1"
Ends = tuple[float | None, float | None]
Form = Literal["int8", "fp32"]
Limit = Literal["latency", "size", "quality"]


class Limits(Record):
    """Hold what a student must meet; `None` where anything goes."""

    max_latency_ms: float | None
    max_mb: float | None
    min_kept: float


class BudgetCost(Record):
    """Hold what a graph costs on this CPU."""

    bytes: int
    latency_p50_ms: float
    latency_p95_ms: float


class BudgetQuality(Record):
    """Hold how well a model answers the rows of a split.

    Attributes:
        accuracy_kept: the share of the teacher's accuracy; `None` for the teacher, and where that is 0.
    """

    accuracy: float
    accuracy_interval: Ends
    accuracy_kept: float | None = None
    accuracy_kept_interval: Ends | None = None


class BudgetTeacher(Record):
    """Hold what the teacher costs in torch on this CPU, and its answers."""

    name: str
    parameters: int
    cost: BudgetCost
    quality: BudgetQuality


class BudgetEntry(Record):
    """Hold one form of a student.

    Attributes:
        name: of the student and its form, such as `bilstm in int8`.
        folder: of the exported model, below that of the search; `None` where there is none.
        run: of the training, likewise.
        cost: of the exported model, or before training of one with untrained weights; `None` where it was
            not measured.
        quality: on validation; `None` where it was not trained.
        missed: the limits that it does not meet, as far as that was measured.
        reason: why it was not trained; empty where it was.
    """

    name: str
    student: str
    form: Form
    folder: str | None = None
    run: str | None = None
    parameters: int | None = None
    cost: BudgetCost | None = None
    quality: BudgetQuality | None = None
    missed: tuple[Limit, ...] = ()
    reason: str = ""

    @property
    def meets_limits(self) -> bool:
        """Return whether it was trained and misses no limit."""
        return self.quality is not None and not self.missed


class BudgetDocument(Record):
    """Hold a search for the cheapest student that meets limits.

    Attributes:
        rows: how many the validation split has.
        entries: from the cheapest student to the dearest, as an untrained one was measured.
        chosen: name of the first entry that meets the limits.
        verdict: sentences, the most important first.
        test: what the chosen one is worth on the test split, which chose nothing.
    """

    schema_version: Literal["distilkit.budget/1"] = Field(
        default=SCHEMA, validation_alias="schema", serialization_alias="schema"
    )
    name: str
    dataset: str
    rows: int
    cpu: str | None
    threads: int
    confidence: float
    limits: Limits
    teacher: BudgetTeacher
    entries: list[BudgetEntry]
    chosen: str | None
    verdict: list[str]
    test: BudgetQuality | None = None
    test_rows: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document, the schema first."""
        values = self.model_dump(mode="json", by_alias=True)
        return {"schema": values.pop("schema"), **values}

    def entry(self, name: str) -> BudgetEntry:
        """Return an entry by its name."""
        return next(entry for entry in self.entries if entry.name == name)


def list_missed(limits: Limits, cost: BudgetCost | None, quality: BudgetQuality | None) -> tuple[Limit, ...]:
    """Return the limits that what was measured does not meet."""
    missed: list[Limit] = []
    if cost and limits.max_latency_ms is not None and cost.latency_p50_ms > limits.max_latency_ms:
        missed.append("latency")
    if cost and limits.max_mb is not None and cost.bytes > 1e6 * limits.max_mb:
        missed.append("size")
    if quality and (quality.accuracy_kept is None or quality.accuracy_kept < limits.min_kept):
        missed.append("quality")
    return tuple(missed)
