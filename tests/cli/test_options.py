"""Every option is on the command line, and asking for help costs nothing."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

import distilkit
import distilkit.cli.app
from distilkit.cli.app import app
from distilkit.config import (
    AugmentConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    PredictConfig,
    ReportConfig,
    ServeConfig,
    SweepConfig,
    SweepReportConfig,
    TrainConfig,
)
from distilkit.config.fields import field_infos, flag

COMMANDS = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "doctor": DoctorConfig,
    "augment": AugmentConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "serve": ServeConfig,
    "report": ReportConfig,
    "sweep": SweepConfig,
}
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "sklearn",
    "numpy",
    "pyarrow",
    "matplotlib",
    "yaml",
)
CACHE_HELPS = [["cache", *command, "--help"] for command in ([], ["path"], ["list"], ["verify"], ["prune"])]
HELPS = [
    ["--help"],
    *([command, "--help"] for command in COMMANDS),
    *CACHE_HELPS,
    ["sweep", "report", "--help"],
]

# `distilkit ARGUMENTS` as the console script runs it, whatever the interpreter was called with.
SCRIPT = "import sys; sys.argv = ['distilkit', *sys.argv[1:]]; from distilkit.cli.app import main; main()"
THEN_TELL = """
import sys
sys.argv = ['distilkit', *sys.argv[1:]]
from distilkit.cli.app import main
try:
    main()
finally:
    sys.stderr.write(' '.join(sorted(sys.modules)))
"""


def run_script(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


def help_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_of_the_config_class_is_a_flag_that_help_explains(command: str) -> None:
    shown = help_of(command)
    one_line = " ".join(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    for name, field in field_infos(COMMANDS[command]).items():
        if (field.json_schema_extra or {}).get("yaml_only"):
            continue
        positional = (field.json_schema_extra or {}).get("positional")
        wanted = name.upper() if positional else flag(name)
        assert re.search(rf"(?<![\w-]){wanted}(?![\w-])", shown), f"{wanted} is missing"
        assert field.description.partition("{")[0].strip() in one_line, f"the help of {wanted} is missing"
    assert "{" not in shown, "a default was not filled in"


def test_a_command_below_another_has_options_of_its_own() -> None:
    shown = help_of("sweep", "report")
    assert "Usage: distilkit sweep report [OPTIONS] [FOLDER]" in " ".join(shown.split()).replace(
        "root ", "distilkit "
    )
    assert all(flag(name) in shown for name in field_infos(SweepReportConfig) if name != "folder")
    assert "--alpha" not in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_no_short_form_stands_for_two_options(command: str) -> None:
    """Typer takes the last of them without a word."""
    shorts = re.findall(r"(?<![\w-])-[a-zA-Z](?![\w-])", help_of(command).split("╮", 1)[1])
    listed = [short for short in shorts if short != "-"]
    assert sorted(listed) == sorted(set(listed))
    assert {"-c", "-q", "-h"} <= set(listed)


def test_help_of_the_root_lists_every_command_and_no_argument_means_help() -> None:
    shown = help_of()
    assert all(re.search(rf"│ {command} ", shown) for command in COMMANDS)
    assert "distilkit train --help" in CliRunner().invoke(app, []).output


def test_version_is_the_packages() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"distilkit {distilkit.__version__}\n")


@pytest.mark.parametrize("arguments", [*HELPS, ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """One import at the top of a module, and every `--help` and every tab completion waits for torch."""
    result = run_script(THEN_TELL, *arguments)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stderr.split())
    assert "distilkit.config" in loaded
    assert not loaded & set(HEAVY)
    asked = {"evaluate": "evaluation", "report": "reporting"}.get(arguments[0])
    if asked:  # and no other command's options
        found = {name for name in loaded if name.startswith("distilkit.config.")}
        shared = {f"distilkit.config.{name}" for name in ("data", "fields", "teacher_files")}
        assert found - shared == {f"distilkit.config.{asked}"}


@pytest.mark.alone
@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_takes_under_300_ms(arguments: list[str]) -> None:
    """The best of ten in processor time, which a busy machine does not stretch as it does the clock's.

    A slow machine does: where the libraries that draw the help take long to import, so may the help. Where
    it has 300 ms they have 165.
    """
    helps, imports = [], []
    libraries = [sys.executable, "-c", "import pydantic.dataclasses, typer.rich_utils, yaml"]
    for _ in range(10):
        imports.append(_processor_seconds(lambda: subprocess.run(libraries, check=True)))
        helps.append(_processor_seconds(lambda: run_script(SCRIPT, *arguments).check_returncode()))
        if min(helps) < max(0.3, min(imports) * 0.3 / 0.165):
            return
    pytest.fail(f"help took {min(helps):.3f} s, its libraries alone {min(imports):.3f} s")


def _processor_seconds(run: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("command", "field", "choices"),
    [
        ("distill", "init", ("pretrained", "teacher", "random")),
        ("train", "precision", ("auto", "fp32", "bf16", "fp16")),
        ("evaluate", "split", ("train", "validation", "test")),
    ],
)
def test_help_names_the_choices_of_an_option(command: str, field: str, choices: tuple[str, ...]) -> None:
    line: Any = next(line for line in help_of(command).splitlines() if f" {flag(field)} " in line)
    assert all(re.search(rf"\b{choice}\b", line) for choice in choices)


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_no_help_cuts_a_flag_in_a_narrow_terminal(arguments: list[str]) -> None:
    """An option that is shown as `--gradient-accumulati…` cannot be typed."""
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"}).output
    assert "…" not in shown.replace(".jsonl …", "")
    assert "<" not in shown and "list[" not in shown, "a type that says nothing"
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("arguments", HELPS[1:], ids=" ".join)
def test_every_command_shows_two_examples_that_parse(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """People copy them: an option that was renamed must not live on in one."""
    from distilkit.cli import paths

    if arguments == ["cache", "--help"]:
        return
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "100", "TERM": "dumb"}).output
    examples = [line.strip() for line in shown.splitlines() if "distilkit " in line and "Usage" not in line]
    assert len(examples) == 2

    def stop(config: object) -> None:
        raise KeyError("parsed")

    monkeypatch.setattr(paths, "check_paths", stop)
    for example in examples:
        words = re.split(r" > | \|\| ", example.partition("distilkit ")[2])[0].split()
        assert isinstance(CliRunner().invoke(app, words).exception, KeyError), example


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bare_command_is_answered_by_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the first thing that people type."""
    monkeypatch.setattr(sys, "argv", ["distilkit", command])
    with pytest.raises(SystemExit) as stop:
        distilkit.cli.app.main()
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err.startswith(f"error: distilkit {command} needs options. For example:\n")
    assert f"    distilkit {command} " in printed.err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["train", "--lr", "1"], "--learning-rate"),
        (["distill", "--learning_rate", "1"], "--learning-rate"),
        (["train", "--num_train_epochs", "1"], "--epochs"),
        (["distill", "--metric_for_best_model", "f1"], "--metric"),
        (["train", "--model_name_or_path", "x"], "--model"),
        (["evaluate", "--fail_under", "x"], "--fail-under"),
    ],
)
def test_flags_of_other_tools_are_answered_by_ours(arguments: list[str], meant: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2 and f"Possible options: {meant})" in result.output


@pytest.mark.parametrize("command", ["train", "distill", "augment", "doctor"])
def test_a_path_without_its_option_is_answered_by_data_dir(command: str) -> None:
    """`distilkit train reviews.csv` is what people type first; "extra argument" alone leads nowhere."""
    result = CliRunner().invoke(app, [command, "reviews.csv"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "extra argument(s) (reviews.csv). Data goes to --data-dir PATH." in result.output


def test_an_extra_argument_of_a_command_without_data_gets_no_advice_on_data() -> None:
    result = CliRunner().invoke(app, ["cache", "list", "teacher"], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "(teacher)" in result.output and "--data-dir" not in result.output


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("train --dataset s", ["sst2"]),
        ("distill --student ", ["bilstm", "static", "tinybert", "distilbert"]),
        ("train --precision f", ["fp32", "fp16"]),
        ("train -m min", ["minilm"]),
        ("evaluate --fail-under acc", ["accuracy=", "accuracy_kept="]),
        ("distill --metric f", ["f1", "f1_macro"]),
    ],
)
def test_the_shell_completes_values(typed: str, completions: list[str]) -> None:
    environment = {
        "_DISTILKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": f"distilkit {typed}",
        "COMP_CWORD": str(len(f"distilkit {typed}".split(" ")) - 1),
    }
    result = run_script(SCRIPT, **environment)
    assert result.stdout.split() == completions, result.stderr
