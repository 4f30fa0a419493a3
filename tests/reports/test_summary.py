"""The Markdown summary renders as a table, and says which models pass."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, write_jsonl

from distilkit import evaluate
from distilkit.reports.summary import escape_markdown, format_interval, markdown, pluralize


def test_a_name_with_a_pipe_does_not_break_the_table(evaluating: Any, tmp_path: Path) -> None:
    """GitHub would read the pipe as the end of a cell and shift all figures by a column."""
    answers = [1 - LABELS[0], *LABELS[1:]]
    file = write_jsonl(tmp_path / "a|b.jsonl", [{"label": answer} for answer in answers])
    config = evaluating(predictions=(str(file),), fail_under=("accuracy=0.5", "f1=0.95"))
    lines = markdown(evaluate(config).typed_document).splitlines()
    table = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    heading, row = table[0], table[2]
    assert heading.count("|") == row.count("|") and "ab.jsonl" in row
    assert "| fail-under accuracy=0.5 |" in table[-2] and "pass: accuracy 0.875 is not under" in table[-2]
    assert "| fail-under f1=0.95 |" in table[-1] and "**fail**: f1 0.8889 is under 0.95" in table[-1]


def test_intervals_and_counts_are_formatted() -> None:
    assert format_interval((0.25, 0.5), "{:.2f}".format) == "0.25 to 0.50"
    assert format_interval((None, None), "{:.2f}".format) == format_interval(None, "{:.2f}".format) == ""
    assert (pluralize(1, "row"), pluralize(1000, "row")) == ("1 row", "1,000 rows")


@pytest.mark.parametrize(
    ("name", "code"),
    [("a`b", "``a`b``"), ("`", "`` ` ``"), ("a\nb", "`a b`"), ("<b>", "`<b>`"), ("a``", "``` a`` ```")],
)
def test_a_name_is_code_whatever_is_in_it(name: str, code: str, evaluating: Any, tmp_path: Path) -> None:
    """A backtick or a line break in a path would make the rest of a comment code, or markup."""
    file = write_jsonl(tmp_path / "plain.jsonl", [{"label": label} for label in LABELS])
    document = evaluate(evaluating(predictions=(str(file),))).typed_document
    entry = document.models[0].model_copy(update={"model": name})
    assert f"| {code} |" in markdown(document.model_copy(update={"models": [entry]}))


def test_a_sentence_with_a_name_holds_no_markup() -> None:
    assert escape_markdown("<img src=x> [a](b) `c` **d** & \\ runs/my_run\n# x") == (
        r"&lt;img src=x> \[a\](b) \`c\` \*\*d\*\* &amp; \\ runs/my_run # x"
    )
