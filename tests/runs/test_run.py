"""A run is written whole or not at all, and a damaged one says so."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from distilkit.config import DistillConfig, TrainConfig, resolve
from distilkit.errors import UserError
from distilkit.runs import folder as folder_runs
from distilkit.runs import run as run_runs
from distilkit.runs.folder import write_json
from distilkit.runs.run import Run, check_output_dir, writing

CONFIG = resolve(DistillConfig(dataset="sst2", alpha=1, output_dir="out", learning_rate=1e-4, overwrite=True))


def fill(folder: Path, mark: str = "new", command: str = "distill", config: Any = CONFIG) -> None:
    """Everything that makes a folder a run."""
    run_runs.write_config(folder, config)
    (folder / run_runs.MODEL).mkdir()
    (folder / run_runs.MODEL / "config.json").write_text(mark)
    folder_runs.write_json(folder / run_runs.METRICS, {"mark": mark})
    folder_runs.write_json(folder / run_runs.ENVIRONMENT, {"command": command})
    folder_runs.append_line(folder / run_runs.HISTORY, {"epoch": 1})
    folder_runs.append_line(folder / run_runs.HISTORY, {"epoch": 2})


def make_run(folder: Path, mark: str = "old") -> Path:
    with writing(folder, overwrite=False) as draft:
        fill(draft, mark)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """All there is under a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_a_run_appears_under_its_name_with_all_its_files_and_nothing_beside_it(tmp_path: Path) -> None:
    with writing(tmp_path / "deep" / "er" / "run", overwrite=False) as draft:
        fill(draft)
        assert not (tmp_path / "deep" / "er" / "run").exists()
    assert os.listdir(tmp_path / "deep" / "er") == ["run"]
    run = Run.load(tmp_path / "deep" / "er" / "run")
    assert run.metrics == {"mark": "new"}
    assert [line["epoch"] for line in run.history] == [1, 2]
    assert (run.model_path / "config.json").read_text() == "new"


def test_a_run_is_readable_by_whoever_a_plain_folder_is(tmp_path: Path) -> None:
    """Temporary folders are made for their owner alone; a run that kept that could not be shared."""
    (tmp_path / "plain").mkdir()
    run = make_run(tmp_path / "run")
    assert stat.S_IMODE(run.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_behind_not_even_the_parents_it_made(
    error: type[BaseException], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(error), writing(tmp_path / "there" / "a" / "b" / "run", overwrite=False) as draft:
        fill(draft)
        raise error
    assert tree(tmp_path) == {"there": None}


def test_a_failure_keeps_parents_that_someone_else_filled_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing(tmp_path / "sweep" / "one", overwrite=False):
        (tmp_path / "sweep" / "two").mkdir()
        raise RuntimeError
    assert tree(tmp_path) == {"sweep": None, "sweep/two": None}


def test_an_empty_folder_receives_a_run_and_survives_a_failure(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(RuntimeError), writing(tmp_path / "run", overwrite=False):
        raise RuntimeError
    assert tree(tmp_path) == {"run": None}
    make_run(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
    assert Run.load(tmp_path / "run").metrics == {"mark": "old"}


@pytest.mark.parametrize("what", ["run", "notes"])
def test_a_folder_that_is_not_empty_is_refused_and_kept(what: str, tmp_path: Path) -> None:
    if what == "run":
        make_run(tmp_path / "out")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with (
        pytest.raises(UserError, match=r"out is not empty.*--overwrite"),
        writing(tmp_path / "out", overwrite=False),
    ):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == before


def test_a_moved_run_keeps_its_own_records(tmp_path: Path) -> None:
    """Of two runs with --overwrite on one folder, the first would print the figures of the second."""
    with writing(tmp_path / "run", overwrite=False) as draft:
        fill(draft, "first")
        first = Run(draft).moved_to(tmp_path / "run")
    with writing(tmp_path / "run", overwrite=True) as draft:
        fill(draft, "second", config=CONFIG.model_copy(update={"seed": 7}))
    assert first.path == tmp_path / "run" and first.metrics == {"mark": "first"}
    assert first.config.seed != 7 and [record["epoch"] for record in first.history] == [1, 2]
    assert Run.load(tmp_path / "run").metrics == {"mark": "second"}


def test_overwrite_replaces_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "out")
    (run / run_runs.EVALUATION).mkdir()
    (run / run_runs.EVALUATION / "sst2-validation.json").write_text("{}")
    with writing(run, overwrite=True) as draft:
        fill(draft, "new")
        assert Run.load(run).metrics == {"mark": "old"}
    assert os.listdir(tmp_path) == ["out"]
    assert Run.load(run).metrics == {"mark": "new"}
    assert not (run / run_runs.EVALUATION).exists(), "an evaluation of the model that was replaced"


@pytest.mark.parametrize(
    "files",
    [("thesis.tex",), ("config.yaml",), ("config.yaml", "model"), ("metrics.json", "environment.json")],
)
def test_overwrite_deletes_nothing_but_a_run(files: tuple[str, ...], tmp_path: Path) -> None:
    """`--overwrite -o ~` must not be the end of a home folder."""
    (tmp_path / "out").mkdir()
    for name in files:
        (tmp_path / "out" / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="holds no run"), writing(tmp_path / "out", overwrite=True):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == before


def test_a_failure_with_overwrite_keeps_the_old_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError), writing(run, overwrite=True) as draft:
        fill(draft, "half")
        raise RuntimeError
    assert tree(tmp_path) == before


def test_a_failure_in_the_very_exchange_puts_the_old_run_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "out")
    before = tree(tmp_path)
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.name.endswith(".complete") and target.name == "out":
            raise OSError("the disk went away")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with (
        pytest.raises(UserError, match=r"went away.*complete and lies in .*\.kept"),
        writing(run, overwrite=True) as draft,
    ):
        fill(draft, "new")
    kept = draft.with_suffix(".kept")
    after = tree(tmp_path)
    assert before.items() <= after.items()
    assert all(name.startswith(kept.name) for name in after.keys() - before.keys())
    assert Run.load(kept).metrics == {"mark": "new"}, "what took hours is not thrown away"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_fills_while_we_train_is_not_overrun(overwrite: bool, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="complete and lies in"),
        writing(tmp_path / "out", overwrite=overwrite) as draft,
    ):
        fill(draft)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "other.txt").write_text("another process")
    assert (tmp_path / "out" / "other.txt").read_text() == "another process"
    assert os.listdir(tmp_path / "out") == ["other.txt"]
    kept = draft.with_suffix(".kept")
    assert Run.load(kept).path == kept, "what took hours is not thrown away"


def test_the_folder_one_is_in_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be replaced under the feet of the shell, and the run could not be read back."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the folder you are in"):
        check_output_dir(Path("."), overwrite=False)


def test_overwrite_through_a_link_replaces_the_run_and_leaves_no_litter(tmp_path: Path) -> None:
    make_run(tmp_path / "real")
    (tmp_path / "latest").symlink_to(tmp_path / "real")
    with writing(tmp_path / "latest", overwrite=True) as draft:
        fill(draft, "new")
    assert Run.load(tmp_path / "latest").metrics == {"mark": "new"}
    assert sorted(os.listdir(tmp_path)) == ["latest", "real"]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("file", "is a file"),
        ("file/run", "is not a folder you can write to"),
        ("file/deep/run", "is not a folder you can write to"),
        ("x" * 300, "name of 300 bytes"),
        ("長" * 86, "name of 258 bytes"),
        ("deep/" + "x" * 256, "name of 256 bytes"),
        ("/".join(["x" * 250] * 17), "File name too long"),
    ],
)
def test_a_place_that_cannot_be_a_folder_is_refused_before_the_work(
    name: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=named):
        check_output_dir(tmp_path / name, overwrite=True)
    assert tree(tmp_path) == {"file": b""}


def test_what_is_free_is_not_refused(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "a" / "b", overwrite=False)
    check_output_dir(make_run(tmp_path / "run"), overwrite=True)
    assert not (tmp_path / "a").exists()


def test_write_json_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "made" / "metrics.json"
    write_json(file, {"accuracy": 0.5, "name": "ü"})
    before = tree(tmp_path)
    assert json.loads(before["made/metrics.json"] or b"") == {"accuracy": 0.5, "name": "ü"}
    with pytest.raises(TypeError):
        write_json(file, {"accuracy": object()})
    assert tree(tmp_path) == before

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(file, {"accuracy": 0.6})
    assert tree(tmp_path) == before


def test_write_json_never_shows_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.json"
    write_json(file, {"accuracy": 0.5})
    seen = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(file.read_text())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_json(file, {"accuracy": 0.6})
    assert [json.loads(text) for text in seen] == [{"accuracy": 0.5}]
    assert json.loads(file.read_text()) == {"accuracy": 0.6}


def test_the_config_of_a_run_is_what_it_was_made_with_but_does_not_ask_to_replace_it(tmp_path: Path) -> None:
    """Repeating a run from its config.yaml must not delete it."""
    config = Run.load(make_run(tmp_path / "run")).config
    assert isinstance(config, DistillConfig)
    assert config == run_runs.replace_values(CONFIG, overwrite=False)


def test_a_run_of_train_gives_a_train_config(tmp_path: Path) -> None:
    with writing(tmp_path / "run", overwrite=False) as draft:
        fill(draft, command="train", config=resolve(TrainConfig(dataset="sst2", output_dir="out")))
    assert isinstance(Run.load(tmp_path / "run").config, TrainConfig)


def test_load_says_that_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a run"):
        Run.load(tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.json", "environment.json", "model"])
def test_load_names_what_an_unfinished_run_lacks(missing: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"run is not a run: it has no {missing}"):
        Run.load(run)


DAMAGE = [
    ("config.yaml", "a: [", "config"),
    ("config.yaml", "alpha: 7\n", "config"),
    ("config.yaml", "- alpha\n", "config"),
    ("config.yaml", "alfa: 0.5\n", "config"),
    ("metrics.json", '{"accuracy": ', "metrics"),
    ("metrics.json", "[1]", "metrics"),
    ("environment.json", "", "environment"),
    ("environment.json", "null", "config"),
    ("history.jsonl", '{"epoch": 1}\n{"epo', "history"),
    ("history.jsonl", None, "history"),
]


@pytest.mark.parametrize(("name", "content", "read"), DAMAGE)
def test_a_damaged_run_names_the_file_that_is_damaged(
    name: str, content: str | None, read: str, tmp_path: Path
) -> None:
    """A copy cut short must not come up as a traceback from the depths of json."""
    folder = make_run(tmp_path / "run")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=name):
        getattr(Run.load(folder), read)


@pytest.mark.parametrize(
    "entry",
    [
        *("NOTES.md", "onnx/model.onnx", "student/config.yaml", "model/onnx/model.onnx", "model/notes.md"),
        "evaluation/notes.txt",
    ],
)
def test_overwrite_refuses_a_run_that_holds_what_no_run_writes(entry: str, tmp_path: Path) -> None:
    """Notes, exports and nested runs were deleted without a word."""
    run = make_run(tmp_path / "out")
    (run / entry).parent.mkdir(exist_ok=True, parents=True)
    (run / entry).write_text("mine")
    before = tree(tmp_path)
    part = entry.partition("/")[0] if not entry.startswith(("model", "evaluation")) else entry
    with pytest.raises(UserError, match=f"holds a run and {part.removesuffix('/model.onnx')}, which"):
        check_output_dir(run, overwrite=True)
    assert tree(tmp_path) == before


def test_overwrite_names_eight_foreign_files_at_most(tmp_path: Path) -> None:
    run = make_run(tmp_path / "out")
    for i in range(1000):
        (run / f"{i:04}.txt").touch()
    with pytest.raises(UserError, match=r"0007\.txt, 992 more, which") as error:
        check_output_dir(run, overwrite=True)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("file", ["merges.txt", "spiece.model", "vocab.json", "chat_template.jinja"])
def test_files_of_any_tokenizer_belong_to_a_run(file: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "out")
    (run / run_runs.MODEL / file).touch()
    check_output_dir(run, overwrite=True)


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("--teacher", "out"),
        ("--teacher", "out/model"),
        ("--student", "link"),
        ("--model", "out/."),
        ("--data-dir", "out/evaluation"),
        ("--transfer", "out/model/vocab.txt"),
    ],
)
def test_overwrite_never_replaces_what_is_read(option: str, path: str, tmp_path: Path) -> None:
    """`-t runs/x -o runs/x --overwrite` replaced a teacher by its student."""
    run = make_run(tmp_path / "out")
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(UserError, match=f"{option} .* is read from there"):
        check_output_dir(run, True, {option: [tmp_path / path]})


def test_overwrite_never_replaces_a_part_of_the_teacher(tmp_path: Path) -> None:
    teacher = make_run(tmp_path / "teacher")
    make_run(teacher / "student")
    with pytest.raises(UserError, match="--teacher"):
        check_output_dir(teacher / "student", True, {"--teacher": [teacher / "model"]})


def test_a_run_beside_its_inputs_is_replaced(tmp_path: Path) -> None:
    """`--data-dir . -o runs/student --overwrite` touches no data."""
    run = make_run(tmp_path / "runs" / "student")
    inputs = {"--data-dir": [tmp_path], "--teacher": [tmp_path / "runs" / "teacher"], "--student": []}
    check_output_dir(run, True, inputs)


def test_every_option_that_reads_is_an_input(tmp_path: Path) -> None:
    """A new option that names a model or data must not be forgotten."""
    config = DistillConfig(
        data_dir="d", teacher=("t", "u"), student="bilstm", transfer=("x.txt", "unsupervised"), output_dir="o"
    )
    assert config.input_paths == {
        "--model": (),
        "--teacher": (Path("t"), Path("u")),
        "--teacher-file": (),
        "--student": (),
        "--data-dir": (Path("d"),),
        "--transfer": (Path("x.txt"),),
        "--corpus": (),
    }
    assert TrainConfig(data_dir="d", model="m", output_dir="o").input_paths["--model"] == (Path("m"),)


def test_only_errors_of_the_draft_are_blamed_on_the_output(tmp_path: Path) -> None:
    """A home folder that cannot be written was reported as `--output-dir`, which could."""
    with (
        pytest.raises(PermissionError, match=r"/elsewhere/metrics"),
        writing(tmp_path / "out", overwrite=False),
    ):
        raise PermissionError(13, "Permission denied", "/elsewhere/metrics")
    for error in (OSError(28, "No space left on device"), OSError(5, "Input/output error")):
        with (
            pytest.raises(UserError, match=f"--output-dir .*: {error.strerror}. Nothing was kept"),
            writing(tmp_path / "out", overwrite=False),
        ):
            raise error
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_at_the_last_file_keeps_the_model(tmp_path: Path) -> None:
    """Hours of training were deleted for want of a kilobyte."""
    with (
        pytest.raises(UserError, match=r"No space left .*The model is complete and lies in") as error,
        writing(tmp_path / "out", overwrite=False) as draft,
    ):
        fill(draft)
        with folder_runs.keeping(run_runs.MODEL):
            raise OSError(28, "No space left on device")
    (kept,) = tmp_path.iterdir()
    assert str(kept / run_runs.MODEL) in str(error.value)
    assert (kept / run_runs.MODEL / "config.json").read_text() == "new"
    check_output_dir(tmp_path / "out", overwrite=False)
    assert kept.is_dir(), "the next run must not delete it"


@pytest.mark.parametrize("content", ["", "{}", "null", "# nothing"])
def test_an_empty_config_is_a_damaged_run(content: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        _ = Run.load(folder).config
