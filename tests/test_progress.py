"""Reporters: what is said without one, what is said once, and how long things take in words."""

import warnings

import pytest
from conftest import Notes

from distilkit import DistilkitWarning, Reporter
from distilkit.errors import pluralize
from distilkit.progress import SILENT, DistinctReporter, NamedReporter, describe_duration


def test_without_a_reporter_a_warning_is_a_python_warning() -> None:
    """A study of hours must not be worthless in silence."""
    with pytest.warns(DistilkitWarning, match="the teacher guesses"):
        SILENT.warn("the teacher guesses")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SILENT.note("an epoch")


def test_a_reporter_that_only_notes_gets_the_warnings_too() -> None:
    """Whoever overrides `note` alone would otherwise never see one."""
    notes = Notes()
    NamedReporter("seed-1", notes).warn("the teacher guesses")
    assert notes.notes == ["warning: seed-1: the teacher guesses"]
    Reporter().warn("nothing is printed")


def test_a_distinct_reporter_passes_each_message_on_once() -> None:
    notes = Notes()
    reporter = DistinctReporter(notes)
    reporter.note_all(["a tenth is held out", "made", "a tenth is held out"])
    reporter.advance("train", 1, 2)
    for _ in range(2):
        reporter.warn("few rows")
    assert notes.notes == ["a tenth is held out", "made", "warning: few rows"]
    assert notes.progress == {"train": (1, 2)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (42.4, "42 s"),
        (150, "2 min"),
        (867, "14 min"),
        (6000, "1 h 40 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_a_duration_is_described_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text


def test_a_count_has_the_form_that_fits() -> None:
    assert [pluralize(count, "row") for count in (0, 1, 2, 1234)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,234 rows",
    ]
    assert [pluralize(count, "class") for count in (1, 2)] == ["1 class", "2 classes"]
