"""Options of `sweep`: lists and ranges are read as they are meant, or refused by name."""

from typing import Any

import pytest

from distilkit.config import DistillConfig, SweepConfig
from distilkit.config.fields import field_infos
from distilkit.config.searching import SearchRange
from distilkit.config.sweeping import SHARED, SWEPT, parse_values
from distilkit.errors import UserError


def make(**options: Any) -> Any:
    return SweepConfig(dataset="sst2", output_dir="sweep", **options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,0.5,1", ("0", "0.5", "1")),
        ("1..5", ("1", "2", "3", "4", "5")),
        ("0..1:0.25", ("0", "0.25", "0.5", "0.75", "1")),
        ("0..0.3:0.1", ("0", "0.1", "0.2", "0.3")),
        ("1e-4,2e-3", ("1e-4", "2e-3")),
        ("-1..1", ("-1", "0", "1")),
        ("1..10:4", ("1", "5", "9")),
        ("1,3..5,5", ("1", "3", "4", "5")),
        ("bilstm, tinybert", ("bilstm", "tinybert")),
        ("../student", ("../student",)),
        ("a..b", ("a..b",)),
        ([0, 0.5], (0, 0.5)),
        (range(1, 4), (1, 2, 3)),
        (0.5, (0.5,)),
        (["0,0.5", "1"], ("0", "0.5", "1")),
        (None, ()),
    ],
)
def test_lists_and_ranges_are_read(text: Any, expected: tuple[Any, ...]) -> None:
    """A range in floats would miss its upper end, or have 0.30000000000000004 in it."""
    assert parse_values(text) == expected


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("alpha", "0..1", SearchRange(0, 1)),
        ("alpha", "0..1:0.25", SearchRange(0, 1, 0.25)),
        ("learning_rate", "1e-4..1e-2 log", SearchRange(1e-4, 1e-2, log=True)),
        ("learning_rate", {"low": "1e-4", "high": 1e-2, "log": True}, SearchRange(1e-4, 1e-2, log=True)),
        ("hidden_size", "64..256:64", SearchRange(64, 256, 64, whole=True)),
        ("student", ["bilstm", "tinybert", "bilstm"], ("bilstm", "tinybert")),
    ],
)
def test_ranges_and_choices_of_a_search_are_read(name: str, written: Any, expected: Any) -> None:
    """YAML takes 1e-4 for a text; and what is saved in sweep.yaml must be read as the same."""
    config = make(search={name: written})
    assert config.search == {name: expected}
    assert make(search=config.model_dump(mode="json")["search"]).search == config.search


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "5..1"}, "seed '5..1': the range is empty"),
        ({"alpha": "0..1:0"}, "the range is empty. Write the lower end first, and a step above 0"),
        ({"alpha": "0..0.5"}, "the range needs a step: 0..0.5:0.1, for example"),
        ({"alpha": "0,,1"}, "a value is missing beside a comma"),
        ({"seed": "1..10000000"}, "that is 10,000,000 values, and a sweep has 10,000 cells at most"),
        ({"alfa": "0,1"}, "'alfa' is not an option of SweepConfig. Did you mean 'alpha'?"),
        ({"grid": {"alfa": [0]}}, "grid: 'alfa' is not an option of distill. Did you mean 'alpha'?"),
        ({"grid": {"dataset": ["sst2", "mrpc"]}}, "grid: all cells share dataset"),
        ({"search": {"alfa": "0..1"}}, "search: 'alfa' is not an option of distill. Did you mean 'alpha'?"),
        ({"search": {"metric": ["f1", "mcc"]}}, "search: all cells share metric"),
        ({"search": {"seed": "1..5"}}, "search: every setting has the same seeds"),
        ({"search": {"alpha": "0..2"}}, "alpha: the option does not take 2"),
        ({"search": {"alpha": "1..0"}}, "alpha: the range 1..0 is empty"),
        ({"search": {"alpha": "much"}}, "alpha: 'much' is neither a range nor a list; write 0..1,"),
        ({"search": {"alpha": [0.5]}}, "alpha: give two choices or more"),
        ({"search": {"alpha": {"low": 0}}}, "alpha: a range has low and high"),
        ({"search": {"learning_rate": "0..1 log"}}, "learning_rate: a range on a log scale begins above 0"),
        ({"search": {"hidden_size": "1.5..9"}}, "hidden_size: the option takes whole numbers"),
        ({"search": {"student": "0..1"}}, "student: a range is for numbers; give a list of choices"),
        ({"search": {"alpha": "0..1"}, "alpha": 0.5}, "search: alpha has a value already"),
        (
            {"search": {"alpha": "0..1"}, "temperature": [1, 2]},
            "temperature has several values beside",
        ),
        ({"search": {"alpha": "0..1"}, "grid": {"temperature": [1]}}, "search and grid exclude each other"),
        ({"search": ["alpha"]}, "it is a mapping of options to ranges or choices"),
        ({"trials": 5}, "trials is for a search"),
        ({"time_limit": "soon"}, "time_limit 'soon': write it as 90s, 30m, 2h or 1d"),
        ({"storage": "sqlite:///x.db"}, "SQLite lets several processes take the same cell"),
        ({"method": "general"}, "general has no validation score to compare"),
        ({"jobs": 0}, "jobs 0: input should be greater than or equal to 1"),
        ({"dataset": "sst2,mrpc"}, "dataset 'sst2,mrpc': input should be 'sst2'"),
    ],
)
def test_a_mistake_is_named_with_what_to_write(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        SweepConfig(**{"dataset": "sst2", "output_dir": "sweep"} | options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400), (45, 45), ("60", 60)]
)
def test_a_duration_has_a_unit(text: Any, seconds: float) -> None:
    assert make(time_limit=text).time_limit == seconds


def test_every_option_of_distill_is_swept_or_shared() -> None:
    """A new option of `distill` that a sweep does not know could not be set there at all."""
    infos = field_infos(SweepConfig)
    for name, info in field_infos(DistillConfig).items():
        if name in ("overwrite", "checkpoint_every", "resume"):  # a sweep goes on where it was
            continue
        assert infos[name].description or name == "output_dir"
        if name in SWEPT:
            assert infos[name].json_schema_extra["element"] == info.annotation
        elif name in SHARED:
            assert (infos[name].annotation, infos[name].default) == (info.annotation, info.default)
