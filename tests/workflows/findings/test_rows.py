"""Findings on labels: each where it helps, and none on labels that are as they should be."""

import datasets
import pytest

from distilkit.data.text_data import TextData
from distilkit.workflows.findings.rows import doubtful_classes, joined_names, joined_rows


@pytest.mark.parametrize("name", ["nan", "None", "NULL", "NA", "n/a", "<NA>", "-", "?"])
def test_a_class_that_is_called_like_a_missing_value_is_asked_about(name: str) -> None:
    """A student learns to tell rows without a label apart, and its accuracy is none of the task."""
    (finding,) = doubtful_classes(("bad", name, "good"))
    assert finding.severity == "warning" and repr(name) in finding.what


@pytest.mark.parametrize(
    ("names", "is_asked"),
    [
        (("-1", "0", "1"), True),
        (("-1", "bad", "good"), True),
        (("-1", "1"), False),
        (("0", "1"), False),
    ],
)
def test_minus_one_is_asked_about_unless_it_is_the_opposite_of_one(
    names: tuple[str, ...], is_asked: bool
) -> None:
    assert [finding.check for finding in doubtful_classes(names)] == ["hidden-labels"] * is_asked


def test_truth_values_beside_0_and_1_are_asked_about() -> None:
    (finding,) = doubtful_classes(("0", "1", "false", "true"))
    assert finding.severity == "warning" and "four classes" in finding.what
    assert not list(doubtful_classes(("false", "true")))


def test_several_labels_in_one_are_told_from_names_with_commas() -> None:
    """Each combination is learned as a class of its own."""
    assert joined_names(("drama", "comedy", "drama, comedy", "comedy|horror", "horror")) == [
        "drama, comedy",
        "comedy|horror",
    ]
    assert joined_names(("['a']", "['a', 'b']", "['b']")) == ["['a', 'b']"]
    assert joined_names(("Paris, France", "Lyon, France", "Arts, Crafts & Sewing", ",", "a,a")) == []


def test_findings_on_thousands_of_classes_are_short() -> None:
    names = [f"{'long ' * 50}{row}, {'long ' * 50}{row % 7}" for row in range(3000)]
    assert all(
        len(finding.line) < 1000 for finding in doubtful_classes(["-1", "nan", "a,b", "b", "a", *names])
    )


@pytest.mark.parametrize(
    ("text", "is_reported"),
    [
        ("so he said dull t1,neg\ngreat t2,pos\nfun", True),
        ('dull t1;"neg"\r\ngreat', True),
        ("dull t1\npos,great t2\nneg", True),
        ("a poem,\nin two lines, and pos\nno more", False),
        ("dull,neg", False),
    ],
)
def test_rows_that_a_quotation_mark_joined_are_reported(text: str, is_reported: bool) -> None:
    """The file is read with fewer rows, and one text has the labels of others in it."""
    rows = datasets.Dataset.from_dict({"text": ["fine", text], "label": ["pos", "neg"]})
    data = TextData(
        "films", datasets.DatasetDict(train=rows), "text", None, "label", ("neg", "pos"), "accuracy", {}
    )
    findings = list(joined_rows(data))
    assert [finding.check for finding in findings] == ["joined-rows"] * is_reported
    assert all("row 2" in finding.what for finding in findings)
