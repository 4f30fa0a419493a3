"""The sentences of `fit`: which student, or which limit fails by how much and what would help."""

from typing import Any

import pytest

from distilkit.reports.budget_document import (
    BudgetCost,
    BudgetDocument,
    BudgetEntry,
    BudgetQuality,
    BudgetTeacher,
    Limits,
    list_missed,
)
from distilkit.reports.budget_page import write_budget_report
from distilkit.reports.budget_verdict import write_verdict

TEACHER_ACCURACY = 0.9


def make_quality(kept: float, half_width: float = 0.02) -> BudgetQuality:
    accuracy = kept * TEACHER_ACCURACY
    return BudgetQuality(
        accuracy=accuracy,
        accuracy_interval=(accuracy - half_width, accuracy + half_width),
        accuracy_kept=kept,
        accuracy_kept_interval=(kept - half_width, kept + half_width),
    )


def make_document(*entries: tuple[str, float, float, float | None], **limits: Any) -> BudgetDocument:
    """Return a document of entries: name, milliseconds, megabytes and, if it was trained, the share kept."""
    wanted = Limits(**({"max_latency_ms": 2.0, "max_mb": 15.0, "min_kept": 0.97} | limits))
    made = []
    for name, milliseconds, megabytes, kept in entries:
        cost = BudgetCost(
            bytes=round(megabytes * 1e6), latency_p50_ms=milliseconds, latency_p95_ms=2 * milliseconds
        )
        quality = None if kept is None else make_quality(kept)
        made.append(
            BudgetEntry(
                name=f"{name} in int8",
                student=name,
                form="int8",
                folder=f"exported/{name}-int8",
                cost=cost,
                quality=quality,
                missed=list_missed(wanted, cost, quality),
            )
        )
    chosen = next((entry.name for entry in made if entry.meets_limits), None)
    teacher = BudgetTeacher(
        name="runs/teacher",
        parameters=22_700_000,
        cost=BudgetCost(bytes=90_000_000, latency_p50_ms=10.0, latency_p95_ms=12.0),
        quality=BudgetQuality(accuracy=TEACHER_ACCURACY, accuracy_interval=(0.88, 0.92)),
    )
    document = BudgetDocument(
        name="fits/reviews",
        dataset="reviews",
        rows=300,
        cpu="A <fast> CPU",
        threads=2,
        confidence=0.95,
        limits=wanted,
        teacher=teacher,
        entries=made,
        chosen=chosen,
        verdict=[],
    )
    return document.model_copy(update={"verdict": write_verdict(document)})


@pytest.mark.parametrize(
    ("cost", "accuracy_kept", "expected"),
    [
        ((2.0, 15.0), 0.97, ()),
        ((2.01, 15.0), 0.97, ("latency",)),
        ((2.0, 15.01), 0.97, ("size",)),
        ((3.0, 16.0), 0.96, ("latency", "size", "quality")),
        ((3.0, 1.0), None, ("latency",)),
    ],
)
def test_a_limit_is_missed_by_what_is_beyond_it(
    cost: tuple[float, float], accuracy_kept: float | None, expected: tuple[str, ...]
) -> None:
    document = make_document(("bilstm", *cost, accuracy_kept))
    assert document.entries[0].missed == expected


def test_a_teacher_that_is_never_right_leaves_nothing_to_keep() -> None:
    quality = BudgetQuality(accuracy=0.5, accuracy_interval=(0.4, 0.6), accuracy_kept=None)
    limits = Limits(max_latency_ms=None, max_mb=None, min_kept=0.01)
    assert list_missed(limits, None, quality) == ("quality",)


def test_the_first_that_meets_all_limits_is_chosen_and_compared_with_the_teacher() -> None:
    document = make_document(
        ("static", 0.1, 3.0, 0.95), ("bilstm", 0.5, 12.0, 0.98), ("layers", 1.5, 9, 0.99)
    )
    assert document.chosen == "bilstm in int8"
    assert document.verdict == [
        "bilstm in int8 meets the limits: it keeps 98.0 % (96.0 to 100.0) of the accuracy of runs/teacher on "
        "300 validation rows, at 0.5 ms and 12.0 MB. It lies in fits/reviews/exported/bilstm-int8.",
        "The teacher takes 10 ms in torch and 90.0 MB: the student answers a row 20 times as fast, and is "
        "7.5 times smaller.",
        "Its interval reaches below the 97 % asked for: on other rows it may keep less. More validation rows "
        "would tell, and so would a higher --min-kept.",
    ]


def test_nothing_is_said_of_an_interval_that_lies_above_the_limit() -> None:
    assert len(make_document(("bilstm", 0.5, 12.0, 0.98), min_kept=0.95).verdict) == 2


def test_the_test_score_is_told_with_its_interval() -> None:
    document = make_document(("bilstm", 0.5, 12.0, 0.98), min_kept=0.95)
    document = document.model_copy(update={"test": make_quality(0.96), "test_rows": 1_000})
    assert write_verdict(document)[-1] == (
        "On the 1,000 rows of the test split, which chose nothing, it keeps 96.0 % (94.0 to 98.0): accuracy "
        "0.8640."
    )


def test_the_limit_on_quality_that_fails_is_named_with_what_helps() -> None:
    document = make_document(("static", 0.1, 3.0, 0.93), ("bilstm", 0.5, 12.0, 0.96))
    assert document.verdict == [
        "No student meets the limits.",
        "The nearest is bilstm in int8: it keeps 96.0 % (94.0 to 98.0) at 0.5 ms and 12.0 MB, 1.0 points "
        "under --min-kept 0.97.",
        "More text for the teacher to label helps most: --transfer FILE. More labelled rows for the teacher "
        "do too.",
    ]


def test_a_good_one_that_costs_too_much_is_offered_with_the_limits_that_it_needs() -> None:
    document = make_document(("bilstm", 0.5, 12.0, 0.90), ("layers", 3.14, 123.0, 0.99))
    assert "layers in int8 with --max-latency-ms 3.2 --max-mb 130 would do." in document.verdict


def test_where_nothing_fits_none_is_trained_and_the_nearest_is_named() -> None:
    document = make_document(("static", 0.507, 3.3, None), ("bilstm", 1.0, 12.0, None), max_latency_ms=0.2)
    assert document.verdict == [
        "No student meets the limits.",
        "None was trained, as each costs too much before it knows anything. The nearest is static in int8, "
        "at 0.507 ms and 3.3 MB, 0.307 ms over --max-latency-ms 0.2.",
        "static in int8 was not trained, and may keep enough: it would need --max-latency-ms 0.51.",
    ]


def test_a_page_shows_every_student_and_escapes_what_it_is_told(tmp_path: Any) -> None:
    document = make_document(
        ("static", 0.1, 3.0, 0.95), ("bilstm", 0.5, 12.0, 0.98), ("layers", 3.0, 9, None)
    )
    page, figures, *pictures = write_budget_report(tmp_path / "report", document)
    text = page.read_text()
    assert "A &lt;fast&gt; CPU" in text and "<fast>" not in text
    assert all(
        part in text
        for part in ("static in int8", "chosen", "keeps too little", "98.0 %", "not trained: too slow")
    )
    assert BudgetDocument.model_validate_json(figures.read_text()) == document
    assert {file.name for file in pictures} == {"students.png", "students.svg"}
    write_budget_report(tmp_path / "report", document)  # which replaces it
