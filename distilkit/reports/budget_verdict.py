"""Say in plain words which student meets the limits, or which limit fails by how much and what would help."""

import math
from collections.abc import Iterator, Sequence

from distilkit.reports.budget_document import BudgetDocument, BudgetEntry, BudgetQuality, Ends


def write_verdict(document: BudgetDocument) -> list[str]:
    """Return sentences: what was chosen or what fails, then what the reader must know."""
    if document.chosen is not None:
        return list(_describe_choice(document, document.entry(document.chosen)))
    return list(_describe_failure(document))


def describe_quality(quality: BudgetQuality) -> str:
    """Return what a student keeps, with its interval: `keeps 97.8 % (95.9 to 99.6)`."""
    if quality.accuracy_kept is None:
        return f"has accuracy {quality.accuracy:.4f}, and its teacher none to keep"
    return f"keeps {100 * quality.accuracy_kept:.1f} %{_format_ends(quality.accuracy_kept_interval)}"


def describe_cost(entry: BudgetEntry) -> str:
    """Return what a student costs: `0.41 ms and 14.2 MB`."""
    assert entry.cost
    return f"{entry.cost.latency_p50_ms:.3g} ms and {entry.cost.bytes / 1e6:.1f} MB"


def _format_ends(ends: Ends | None) -> str:
    if ends is None or ends[0] is None or ends[1] is None:
        return ""
    return f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


# --- a choice ---------------------------------------------------------------------------------------------


def _describe_choice(document: BudgetDocument, entry: BudgetEntry) -> Iterator[str]:
    assert entry.quality and entry.cost and entry.quality.accuracy_kept is not None
    teacher = document.teacher
    yield (
        f"{entry.name} meets the limits: it {describe_quality(entry.quality)} of the accuracy of "
        f"{teacher.name} on {document.rows:,} validation rows, at {describe_cost(entry)}. It lies in "
        f"{document.name}/{entry.folder}."
    )
    faster = teacher.cost.latency_p50_ms / entry.cost.latency_p50_ms
    smaller = teacher.cost.bytes / entry.cost.bytes
    yield (
        f"The teacher takes {teacher.cost.latency_p50_ms:.3g} ms in torch and "
        f"{teacher.cost.bytes / 1e6:.1f} MB: the student answers a row {faster:.3g} times as fast, and is "
        f"{smaller:.3g} times smaller."
    )
    low = entry.quality.accuracy_kept_interval[0] if entry.quality.accuracy_kept_interval else None
    if low is not None and low < document.limits.min_kept:
        yield (
            f"Its interval reaches below the {100 * document.limits.min_kept:.3g} % asked for: on other rows "
            "it may keep less. More validation rows would tell, and so would a higher --min-kept."
        )
    if document.test is not None and document.test_rows is not None:
        yield (
            f"On the {document.test_rows:,} rows of the test split, which chose nothing, it "
            f"{describe_quality(document.test)}: accuracy {document.test.accuracy:.4f}."
        )


# --- no choice --------------------------------------------------------------------------------------------


def _describe_failure(document: BudgetDocument) -> Iterator[str]:
    measured = [entry for entry in document.entries if entry.cost]
    if not measured:
        yield "No student could be exported, so none meets the limits."
        return
    yield "No student meets the limits."
    trained = [entry for entry in measured if entry.quality]
    nearest = min(trained or measured, key=lambda entry: _distance(document, entry))
    if nearest.quality:
        yield (
            f"The nearest is {nearest.name}: it {describe_quality(nearest.quality)} at "
            f"{describe_cost(nearest)}, {_describe_misses(document, nearest)}."
        )
    else:
        yield (
            f"None was trained, as each costs too much before it knows anything. The nearest is "
            f"{nearest.name}, at {describe_cost(nearest)}, {_describe_misses(document, nearest)}."
        )
    yield from _suggest(document, trained, nearest)


def _distance(document: BudgetDocument, entry: BudgetEntry) -> tuple[int, float]:
    """Return how many limits an entry misses, and by how large a share in all."""
    return len(entry.missed), sum(_excesses(document, entry).values())


def _excesses(document: BudgetDocument, entry: BudgetEntry) -> dict[str, float]:
    """Return by what share each missed limit is missed."""
    limits, excesses = document.limits, {}
    if "latency" in entry.missed and entry.cost and limits.max_latency_ms:
        excesses["latency"] = entry.cost.latency_p50_ms / limits.max_latency_ms - 1
    if "size" in entry.missed and entry.cost and limits.max_mb:
        excesses["size"] = entry.cost.bytes / 1e6 / limits.max_mb - 1
    if "quality" in entry.missed and entry.quality:
        excesses["quality"] = 1 - (entry.quality.accuracy_kept or 0.0) / limits.min_kept
    return excesses


def _describe_misses(document: BudgetDocument, entry: BudgetEntry) -> str:
    """Return by how much each limit is missed, in its own unit."""
    limits, parts = document.limits, []
    if "latency" in entry.missed and entry.cost and limits.max_latency_ms:
        over = entry.cost.latency_p50_ms - limits.max_latency_ms
        parts.append(f"{over:.3g} ms over --max-latency-ms {limits.max_latency_ms:g}")
    if "size" in entry.missed and entry.cost and limits.max_mb:
        over = entry.cost.bytes / 1e6 - limits.max_mb
        parts.append(f"{over:.1f} MB over --max-mb {limits.max_mb:g}")
    if "quality" in entry.missed and entry.quality:
        under = 100 * (limits.min_kept - (entry.quality.accuracy_kept or 0.0))
        parts.append(f"{under:.1f} points under --min-kept {limits.min_kept:g}")
    return " and ".join(parts)


def _suggest(document: BudgetDocument, trained: Sequence[BudgetEntry], nearest: BudgetEntry) -> Iterator[str]:
    """Yield what would help."""
    good = [entry for entry in trained if "quality" not in entry.missed]
    if good:
        entry = min(good, key=lambda entry: _distance(document, entry))
        yield f"{entry.name} {_describe_wider_limits(document, entry)} would do."
    untrained = [entry for entry in document.entries if entry.cost and not entry.quality and entry.missed]
    if untrained and not good:
        entry = min(untrained, key=lambda entry: _distance(document, entry))
        yield (
            f"{entry.name} was not trained, and may keep enough: it would need "
            f"{_describe_wider_limits(document, entry)}."
        )
    if nearest.quality and "quality" in nearest.missed:
        yield (
            "More text for the teacher to label helps most: --transfer FILE. More labelled rows for the "
            "teacher do too."
        )


def _describe_wider_limits(document: BudgetDocument, entry: BudgetEntry) -> str:
    """Return the limits that an entry would meet, rounded up."""
    assert entry.cost
    wider = []
    if "latency" in entry.missed:
        wider.append(f"--max-latency-ms {_round_up(entry.cost.latency_p50_ms)}")
    if "size" in entry.missed:
        wider.append(f"--max-mb {_round_up(entry.cost.bytes / 1e6)}")
    return " ".join(wider) if entry.quality is None else f"with {' '.join(wider)}"


def _round_up(value: float) -> str:
    """Return a number of two significant digits that is no smaller."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step - 1e-9) * step:.12g}"
