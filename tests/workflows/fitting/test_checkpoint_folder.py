"""A checkpoint is on the disk whole, or the one before it still is."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from distilkit.errors import UserError
from distilkit.runs.checkpoint import find_checkpoint
from distilkit.runs.records import CheckpointState, TrainingIdentity, TrainingMachine
from distilkit.workflows.fitting import checkpoint_folder
from distilkit.workflows.fitting.checkpoint_folder import (
    BEST,
    CheckpointFolder,
    check_identity,
    describe_differences,
)

IDENTITY = TrainingIdentity(
    config={"learning_rate": 0.1, "seed": 1},
    dataset={"train": "a", "validation": "b"},
    facts={"teachers": ["x"]},
    loss="CE",
)
MACHINE = TrainingMachine(versions={"torch": "2.10"}, threads=2, device="cpu")


def state(step: int, best_key: str = "") -> CheckpointState:
    return CheckpointState(
        identity=IDENTITY,
        machine=MACHINE,
        stage="logits",
        epoch=1,
        steps=step,
        rows=step,
        seconds=0.1,
        unmeasured=["layer_loss"],
        learner={"learning_rate": 1e-3 / 3},
        history=[],
        best_key=best_key,
        padding_matters=None,
        start="",
        total_seconds=0.2,
    )


def tensors(value: float) -> dict[str, Tensor]:
    """Return tensors of which two share their memory, as tied weights do, and two are parts of one."""
    tied, stacked = torch.full((3, 2), value), torch.full((2, 4), value)
    return {"a": tied, "b": tied, "mean": stacked[0], "square": stacked[1], "turned": tied.T}


def assert_latest(output: Path, value: float) -> None:
    """Check that a new process would read this checkpoint."""
    read, values, _ = CheckpointFolder(output).read()
    assert read == state(int(value))
    assert values.keys() == tensors(value).keys()
    for name, tensor in tensors(value).items():
        assert torch.equal(values[name], tensor)


def test_what_is_written_is_read_and_replaces_the_one_before(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), folder.open(resume=False):
        for step in (1, 2, 3):
            folder.write(state(step), tensors(step), {})
            assert_latest(tmp_path / "run", step)
        raise ZeroDivisionError
    assert sorted(os.listdir(tmp_path / "run.checkpoint")) == [".lock", "3"]


def test_a_run_that_is_complete_leaves_no_checkpoint(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "new" / "run")
    with folder.open(resume=False):
        folder.write(state(1), tensors(1), {})
    assert os.listdir(tmp_path) == []


def test_a_failure_before_the_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), CheckpointFolder(tmp_path / "new" / "run").open(resume=False):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", range(12))
def test_a_disk_that_refuses_leaves_the_checkpoint_before(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its calls fails: folder, tensors, JSON, sync, rename."""
    folder = CheckpointFolder(tmp_path / "run")
    calls: list[str] = []

    def refusing(name: str, original: Any) -> Any:
        def refuse(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == call + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments, **options)

        return refuse

    with pytest.raises(ZeroDivisionError), folder.open(resume=False):
        folder.write(state(1, "best"), tensors(1), tensors(5))
        with monkeypatch.context() as patch:
            for owner, name in ((Path, "mkdir"), (Path, "write_text"), (Path, "rename"), (os, "fsync")):
                patch.setattr(owner, name, refusing(name, getattr(owner, name)))
            patch.setattr(checkpoint_folder, "save_file", refusing("save_file", checkpoint_folder.save_file))
            try:
                folder.write(state(2, "better"), tensors(2), tensors(6))
            except UserError as error:
                assert "No space left on device" in str(error) and str(folder.path) in str(error)
                assert len(calls) == call + 1
            else:
                assert len(calls) <= call, "the error was swallowed"
        read, values, best = CheckpointFolder(tmp_path / "run").read()
        step = read.steps
        assert torch.equal(values["a"], tensors(step)["a"]) and torch.equal(
            best["a"], tensors(4.0 + step)["a"]
        )
        raise ZeroDivisionError


def test_a_folder_that_vanishes_is_one_clear_error(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "run")
    with (
        pytest.raises(UserError, match=r"no checkpoint can be written to .*No such file"),
        folder.open(resume=False),
    ):
        folder.write(state(1), tensors(1), {})
        folder.path.rename(tmp_path / "moved")
        folder.write(state(2), tensors(2), {})
    assert (tmp_path / "moved" / "1").is_dir()


def test_the_best_weights_are_written_once(tmp_path: Path) -> None:
    """They change once an epoch at most, and are as large as the model."""
    folder = CheckpointFolder(tmp_path / "run")
    with folder.open(resume=False):
        files = []
        for step, key in enumerate(("a", "a", "b"), start=1):
            folder.write(state(step, key), tensors(step), tensors(ord(key)))
            assert folder.latest
            files.append((folder.latest / BEST).stat().st_ino)
            assert torch.equal(CheckpointFolder(tmp_path / "run").read()[2]["a"], tensors(ord(key))["a"])
        assert files[0] == files[1] != files[2]


def test_best_weights_are_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = CheckpointFolder(tmp_path / "run")
    with folder.open(resume=False):
        for step in (1, 2):
            folder.write(state(step, "a"), tensors(step), tensors(7))
        assert torch.equal(CheckpointFolder(tmp_path / "run").read()[2]["a"], tensors(7)["a"])


def test_what_a_kill_left_is_removed_and_the_latest_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), folder.open(resume=False):
        folder.write(state(4), tensors(4), {})
        raise ZeroDivisionError
    (folder.path / "2.unfinished").mkdir()
    (folder.path / "0").mkdir()
    with pytest.raises(ZeroDivisionError), CheckpointFolder(tmp_path / "run").open(resume=True):
        raise ZeroDivisionError
    assert_latest(tmp_path / "run", 4)
    assert sorted(os.listdir(folder.path)) == [".lock", "1"]
    with CheckpointFolder(tmp_path / "run").open(resume=False):
        assert find_checkpoint(tmp_path / "run") is None


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    (tmp_path / "run.checkpoint").mkdir()
    with (
        FileLock(tmp_path / "run.checkpoint" / ".lock"),
        pytest.raises(UserError, match="another process"),
        CheckpointFolder(tmp_path / "run").open(resume=True),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("file", ["state.json", "state.safetensors", "best.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "missing", "noise"])
def test_a_damaged_checkpoint_is_refused(file: str, damage: str, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "run")
    with pytest.raises(UserError, match="is damaged"), folder.open(resume=False):
        folder.write(state(1, "a"), tensors(1), tensors(2))
        assert folder.latest
        path = folder.latest / file
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:40] if damage == "cut" else os.urandom(300))
        folder.read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"learning_rate": 0.2, "seed": 1}}, r"--learning-rate 0\.1, now 0\.2"),
        ({"dataset": {"train": "c", "validation": "b"}}, "the rows of the split train"),
        ({"dataset": {"train": "a"}}, "the rows of the split validation"),
        ({"facts": {"teachers": ["y"]}}, "the teachers"),
        ({"loss": "MSE"}, "the loss 'CE', now 'MSE'"),
    ],
)
def test_another_training_is_refused_by_what_differs(change: dict[str, Any], message: str) -> None:
    check_identity(IDENTITY, IDENTITY.model_copy(), Path("x"))
    with pytest.raises(UserError, match=message):
        check_identity(IDENTITY, IDENTITY.model_copy(update=change), Path("x"))


def test_another_machine_is_described() -> None:
    assert describe_differences(MACHINE, MACHINE) == []
    now = TrainingMachine(versions={"torch": "2.11"}, threads=1, device="cpu")
    assert describe_differences(MACHINE, now) == ["torch 2.10, now 2.11", "threads 2, now 1"]
