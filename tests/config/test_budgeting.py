"""Options of `fit`: which students are tried, and what is refused."""

from typing import Any

import pytest

from distilkit import BudgetConfig
from distilkit.config.fields import make_config
from distilkit.errors import UserError


def make(**options: Any) -> BudgetConfig:
    return make_config(BudgetConfig, {"dataset": "sst2", "output_dir": "fit", **options})


@pytest.mark.parametrize(
    ("students", "teacher_layers", "expected"),
    [
        ((), 6, [("static", None), ("bilstm", None), ("layers", 1), ("layers", 2), ("layers", 3)]),
        ((), 12, [("static", None), ("bilstm", None), ("layers", 2), ("layers", 4), ("layers", 6)]),
        ((), 2, [("static", None), ("bilstm", None), ("layers", 1)]),
        ((), None, [("static", None), ("bilstm", None)]),
        (("layers:4", "bilstm"), 6, [("layers", 4), ("bilstm", None)]),
        (("layers:2", "layers"), 6, [("layers", 2), ("layers", 1), ("layers", 3)]),
        (("layers:9",), 6, [("layers", 9)]),
    ],
)
def test_students_to_try_are_listed_once_each(
    students: tuple[str, ...], teacher_layers: int | None, expected: list[tuple[str, int | None]]
) -> None:
    config = make(student=students) if students else make()
    assert list(config.list_students(teacher_layers)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"student": ("tinybert",)},
            "--student tinybert is none that fit tries: give static, bilstm, layers",
        ),
        ({"student": ("layers:0",)}, "layers:0 is none"),
        ({"student": ()}, "there is no student to try: give --student static or bilstm or layers"),
        (
            {"teacher": "a", "model": "b"},
            "--model b would be fine-tuned as the teacher, and --teacher a is one",
        ),
        ({"min_kept": 1.2}, "--min-kept"),
        ({"min_kept": 97}, "--min-kept"),
        ({"max_latency_ms": 0}, "--max-latency-ms"),
        ({"max_mb": -1}, "--max-mb"),
    ],
)
def test_what_makes_no_search_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**options)
    assert message in str(caught.value)
