"""Condense an evaluation into what decides: a sentence and a few cards for each student."""

from collections.abc import Iterator
from dataclasses import dataclass

from distilkit.errors import pluralize
from distilkit.reports.document import EvaluationDocument, ModelEntry
from distilkit.reports.parts import format_bytes, format_count, format_milliseconds, format_percent
from distilkit.reports.summary import format_interval

MAX_VERDICTS = 4
SAME_SPEED = (0.95, 1.05)  # ratios that are called equal
SAME_SIZE = 0.005  # share of the teacher's size


@dataclass(frozen=True)
class Card:
    """Hold a figure in large print, what it is, and a note in small print.

    Attributes:
        kind: `good`, `bad` or nothing; a CSS class.
    """

    figure: str
    label: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Verdict:
    """Hold what is said first of one model; `index` is its position among the models."""

    sentence: str
    index: int
    cards: list[Card]


def make_verdicts(document: EvaluationDocument) -> list[Verdict]:
    """Return a verdict for each student, at most `MAX_VERDICTS`; without a teacher, for the best model."""
    students = [i for i, entry in enumerate(document.models) if entry.teacher is not None]
    verdicts = [_student_verdict(document, i) for i in students[:MAX_VERDICTS]]
    return verdicts or [_best_verdict(document)]


def count_more_students(document: EvaluationDocument) -> int:
    """Return how many students have no verdict."""
    return max(0, sum(entry.teacher is not None for entry in document.models) - MAX_VERDICTS)


def gates_card(document: EvaluationDocument) -> Card | None:
    """Return how many gates passed, `None` where there are none."""
    if not document.gates:
        return None
    passed, gates = sum(gate.passed for gate in document.gates), len(document.gates)
    kind = "good" if passed == gates else "bad"
    return Card(f"{passed:,} of {gates:,}", "gate passed" if gates == 1 else "gates passed", kind=kind)


def _student_verdict(document: EvaluationDocument, index: int) -> Verdict:
    entry = document.models[index]
    teacher = next(model for model in document.models if model.model == entry.teacher)
    sentence = next(
        pair.sentence for pair in document.pairs if {pair.first, pair.second} == {entry.model, teacher.model}
    )
    cards = [_kept_card(document, entry), *_speed_cards(entry, teacher), *_size_cards(entry, teacher)]
    return Verdict(sentence, index, cards)


def _kept_card(document: EvaluationDocument, entry: ModelEntry) -> Card:
    interval = format_interval(entry.intervals.get("accuracy_kept"), format_percent)
    note = f"{document.confidence:.0%} interval {interval}" if interval else ""
    return Card(format_percent(entry.metrics.get("accuracy_kept")), "of its teacher's accuracy", note)


def _speed_cards(entry: ModelEntry, teacher: ModelEntry) -> Iterator[Card]:
    """Compare the latency of a row or, where that was not measured, the rows per second."""
    if entry.cost.speed_up is None:
        return
    if ratio := entry.cost.speed_up.latency_p50_ms:
        times = (format_milliseconds(model.cost.latency_p50_ms) for model in (entry, teacher))
        note = "a row takes {} ms instead of {}".format(*times)
    elif ratio := entry.cost.speed_up.rows_per_second:
        speeds = (format_count(model.cost.rows_per_second) for model in (entry, teacher))
        note = "{} rows/s instead of {}".format(*speeds)
    else:
        return
    low, high = SAME_SPEED
    if low < ratio < high:
        yield Card("same", "speed as its teacher", note)
    elif ratio >= high:
        yield Card(f"{ratio:.1f} times", "faster than its teacher", note)
    else:
        yield Card(f"{1 / ratio:.1f} times", "slower than its teacher", note, "bad")


def _size_cards(entry: ModelEntry, teacher: ModelEntry) -> Iterator[Card]:
    size, teacher_size = entry.cost.bytes, teacher.cost.bytes
    if not size or not teacher_size:
        return
    note = f"{format_bytes(size)} instead of {format_bytes(teacher_size)}"
    saved = 1 - size / teacher_size
    if abs(saved) < SAME_SIZE:
        yield Card("same", "size as its teacher", note)
    elif saved > 0:
        yield Card(f"{100 * saved:.0f} %", "smaller than its teacher", note)
    else:
        yield Card(f"{-100 * saved:.0f} %", "larger than its teacher", note, "bad")


def _best_verdict(document: EvaluationDocument) -> Verdict:
    """Describe the model with the highest accuracy, where none is compared with a teacher."""
    accuracies = [entry.metrics["accuracy"] or 0.0 for entry in document.models]
    index = accuracies.index(max(accuracies))
    entry = document.models[index]
    rows = pluralize(document.rows, "row")
    sentence = f"{entry.model} is right in {format_percent(accuracies[index])} of {rows}."
    if len(accuracies) > 1:
        sentence = f"Of {len(accuracies):,} models {entry.model} has the highest accuracy; see Pairs."
    interval = format_interval(entry.intervals.get("accuracy"), format_percent)
    note = f"{document.confidence:.0%} interval {interval}" if interval else ""
    cards = [Card(format_percent(accuracies[index]), "accuracy", note)]
    if entry.cost.latency_p50_ms is not None:
        cards.append(Card(f"{format_milliseconds(entry.cost.latency_p50_ms)} ms", "for a row", "median"))
    elif entry.cost.rows_per_second is not None:
        cards.append(Card(format_count(entry.cost.rows_per_second), "rows per second"))
    if entry.cost.bytes:
        parameters = f"{format_count(entry.cost.parameters)} parameters"
        cards.append(Card(format_bytes(entry.cost.bytes), "of weights", parameters))
    return Verdict(sentence, index, cards)
