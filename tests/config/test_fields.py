"""Whatever a file of options holds ends in a config or in one clear error."""

import random
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from distilkit import DistillConfig, DoctorConfig, EvaluateConfig, ReportConfig, TrainConfig, UserError
from distilkit.config import AugmentConfig
from distilkit.config.fields import MAX_YAML_BYTES, make_config, read_values

VALID = """\
dataset: sst2
data_dir: data/sst2
teacher:
- runs/teacher
- runs/other
teacher_weight: [1, 2.5]
alpha: 0.25
learning_rate: 1e-4
epochs: 3
calibrate: true
transfer: texts.txt
output_dir: 'runs/student'  # a comment
seed: 42
"""
PIECES = (
    *("- ", ": ", "? ", "&a ", "*a", "!!", "! ", "|", ">", "%", "@", "`", "{", "}", "[", "]", "#", "'", '"'),
    *(
        "<<: ",
        "---\n",
        "...\n",
        "\n",
        "\t",
        "  ",
        "\\",
        "\0",
        "\x85",
        "\ufeff",
        "\u2028",
        "é",
        "😀",
        "~",
        "null",
    ),
    *(
        "!!timestamp ",
        "!!binary ",
        "!!int ",
        "!!float ",
        "!!set ",
        "!!omap ",
        "!!pairs ",
        "!!python/name:os ",
    ),
    *("2024-02-30", "2024-13-01 25:61:61", "0x", "0b2", "1:99:99", "-.inf", ".nan", "1e999", "9" * 5000),
    *(
        "[" * 400,
        "{a: " * 400,
        "- " * 400,
        "%YAML 1.9\n",
        "%TAG ! !\n",
        "\\U00110000",
        '"\\ud800"',
        "=",
        "<<",
    ),
)


def mutate(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 0, 1, 1, 5, 30)))
        middle = chance.choice((chance.choice(PIECES), text[end : end + chance.randint(0, 20)], ""))
        text = text[:start] + middle + text[end:]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_a_config_or_one_error(seed: int, tmp_path: Path) -> None:
    """One in eight damaged files ended in a traceback from inside PyYAML."""
    chance = random.Random(seed)
    file = tmp_path / "config.yaml"
    for _ in range(500):
        text = mutate(VALID, chance)
        file.write_text(text, encoding="utf-8", newline="")
        try:
            config = make_config(DistillConfig, read_values(file), source=str(file))
        except UserError as error:
            assert str(file) in str(error)
            assert len(str(error).replace(str(file), "")) < 1000
        else:
            assert isinstance(config.output_dir, Path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("output_dir: !!timestamp 2024-02-30", "not valid"),
        ("seed: " + "9" * 5000, "not valid"),
        ("a: &a [x]\nb: *a", "write the value instead of the alias"),
        ("[" * 1000, "too deeply"),
        ("output_dir: [\n" + "- " * 1000, "is not YAML"),
        ("- a", "holds a list"),
        ("text", "holds a single value"),
        ("a: 1\na: 2", "sets 'a' twice"),
        ("--- a\n--- b", "is not YAML"),
        ("\0", "is not YAML"),
    ],
)
def test_an_error_says_what_is_wrong_with_the_file(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=named):
        read_values(file)


def test_a_small_file_never_becomes_gigabytes(tmp_path: Path) -> None:
    """Nine levels of nine aliases, 600 bytes, took 2.2 GB."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    file = tmp_path / "config.yaml"
    file.write_text("\n".join(lines))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="alias"):
        make_config(TrainConfig, read_values(file))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("file", [Path("/dev/zero"), Path("large")])
def test_a_file_without_end_is_not_read_to_its_end(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("large").write_text("a: " + "x" * MAX_YAML_BYTES)
    with pytest.raises(UserError, match=r"more than 100,000 bytes"):
        read_values(file)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("epochs: yes", "--epochs 'yes'"),
        ("epochs: true", "--epochs True: it must be a number"),
        ("weight_decay: off", "--weight-decay 'off'"),
        ("weight_decay: false", "--weight-decay False: it must be a number"),
        ("patience: True", "--patience True: it must be a number"),
        ("seed: 12:30", "--seed '12:30'"),
        ("learning_rate: 1:30.5", "--learning-rate '1:30.5'"),
        ("seed: 0x10", "--seed '0x10'"),
    ],
)
def test_a_word_of_yaml_never_becomes_a_number(line: str, named: str, tmp_path: Path) -> None:
    """YAML 1.1 makes 750 of 12:30, and pydantic makes 1 of true: a run with a seed that nobody chose."""
    file = tmp_path / "config.yaml"
    file.write_text(f"dataset: sst2\noutput_dir: o\n{line}\n")
    with pytest.raises(UserError, match=re.escape(named)):
        make_config(TrainConfig, read_values(file))


def test_plain_values_are_read_as_yaml_1_2_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "text_column: no\nlabel_column: 012\noutput_dir: y\noverwrite: yes\nseed: 010\nbatch_size: 1_000\n"
        "learning_rate: 5e-5\nweight_decay: .5\nmax_grad_norm: 1.e+1\npatience: null\ndata_dir: ~\n"
        "dataset: sst2"
    )
    config = make_config(TrainConfig, read_values(file))
    assert (config.text_column, config.label_column, config.output_dir) == ("no", "012", Path("y"))
    assert (config.overwrite, config.seed, config.batch_size, config.learning_rate) == (True, 10, 1000, 5e-5)
    assert (config.weight_decay, config.max_grad_norm, config.patience) == (0.5, 10, None)


def test_a_date_is_a_name(tmp_path: Path) -> None:
    """Folders are often named after days, and YAML makes dates of them."""
    file = tmp_path / "config.yaml"
    for name in ("2024-02-29", "2024-02-30"):
        file.write_text(f"dataset: sst2\noutput_dir: {name}")
        assert make_config(TrainConfig, read_values(file)).output_dir == Path(name)


PATHS: list[tuple[Any, dict[str, Any], str]] = [
    (TrainConfig, {"dataset": "sst2"}, "output_dir"),
    (TrainConfig, {"output_dir": "o"}, "data_dir"),
    (TrainConfig, {"output_dir": "o", "dataset": "sst2"}, "model"),
    (DistillConfig, {"output_dir": "o", "dataset": "sst2"}, "teacher"),
    (DistillConfig, {"output_dir": "o", "dataset": "sst2", "alpha": 1}, "student"),
    (DistillConfig, {"output_dir": "o", "dataset": "sst2", "teacher": "t"}, "transfer"),
    (
        DistillConfig,
        {"output_dir": "o", "method": "general", "teacher": "t", "student": "tinybert"},
        "corpus",
    ),
    (DoctorConfig, {"dataset": "sst2", "alpha": 1}, "output_dir"),
    (EvaluateConfig, {"dataset": "sst2"}, "models"),
    (EvaluateConfig, {"dataset": "sst2"}, "predictions"),
    *(
        (EvaluateConfig, {"dataset": "sst2", "models": "m"}, name)
        for name in ("teacher", "labels_only", "baseline", "report", "markdown", "glue_submission")
    ),
    (ReportConfig, {}, "runs"),
    (ReportConfig, {"runs": "r"}, "output_dir"),
    (AugmentConfig, {"dataset": "sst2"}, "output"),
    (AugmentConfig, {"dataset": "sst2", "output": "o.parquet", "rule": "tinybert"}, "mlm"),
    (AugmentConfig, {"dataset": "sst2", "output": "o.parquet", "rule": "tinybert"}, "embeddings"),
]


@pytest.mark.parametrize(
    ("config_type", "values", "name"), PATHS, ids=lambda value: getattr(value, "__name__", None)
)
def test_every_path_may_begin_with_the_home_folder(
    config_type: Any, values: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell expands `~` in a YAML file: runs went into a folder that is called `~`."""
    monkeypatch.setenv("HOME", "/home/ada")
    made = getattr(config_type(**values, **{name: "~/a.parquet"}), name)
    assert made in (Path("/home/ada/a.parquet"), "/home/ada/a.parquet", ("/home/ada/a.parquet",))


@pytest.mark.parametrize(
    ("config_type", "values", "name"), PATHS, ids=lambda value: getattr(value, "__name__", None)
)
def test_what_can_be_no_path_is_refused(config_type: Any, values: dict[str, Any], name: str) -> None:
    for path in ("a\0b", "a\udcff"):
        with pytest.raises(UserError, match=r"NUL|UTF-8"):
            config_type(**values, **{name: path})


def test_options_that_no_command_has_are_answered_in_a_few_words() -> None:
    with pytest.raises(UserError, match="It takes ") as error:
        make_config(DistillConfig, {"x" * 10_000: 1})
    assert len(str(error.value)) < 1000
    with pytest.raises(UserError, match="more problems") as error:
        make_config(EvaluateConfig, {"dataset": "sst2", "models": [[]] * 1000})
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "config_type", [DistillConfig, DoctorConfig, TrainConfig, EvaluateConfig, AugmentConfig]
)
def test_a_command_without_options_says_what_it_needs(config_type: Any) -> None:
    """`distilkit distill` alone was a traceback, and so was a run whose config.yaml is empty."""
    with pytest.raises(UserError):
        config_type()
