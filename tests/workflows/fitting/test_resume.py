"""A run that was stopped, however it was, ends as the one that was not: to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, Notes, weights

from distilkit import DistillConfig, TrainConfig, UserError, distill, train
from distilkit.runs.checkpoint import checkpoint_folder, find_checkpoint
from distilkit.runs.run import Run
from distilkit.workflows.distillation.workflow import distill_many
from distilkit.workflows.fitting import recorder as recording
from distilkit.workflows.fitting.recorder import RunRecorder

WORDS = {"hidden_size": 6, "embedding_size": 6, "dropout": 0.3, "learning_rate": 1e-2}
ENCODER = {"student": "tinybert", "init": "teacher", "layers": 1, "learning_rate": 1e-3}
KINDS: dict[str, dict[str, Any]] = {
    "train": {"learning_rate": 5e-3},
    "accumulated": {"learning_rate": 5e-3, "batch_size": 2, "gradient_accumulation_steps": 2},
    "bilstm": {"student": "bilstm", **WORDS},
    "static": {"student": "static", "word_dropout": 0.2, "learning_rate": 1e-2},
    "tinybert": {**ENCODER, "method": "tinybert", "layer_epochs": 2},
    "pkd": {**ENCODER, "layers": 2, "method": "pkd", "beta": 10.0},
    "patience": {"student": "bilstm", **WORDS, "patience": 1, "epochs": 5},
}
Make = Callable[..., Any]


class Killed(BaseException):
    """Ends a run from inside, where no clean-up of its own expects it."""


@pytest.fixture
def make(sst2_dir: Path, teacher_run: Run, bert_dir: Path, tmp_path: Path) -> Make:
    """Return a function from a kind and a name to a config of a run in `tmp_path / name`."""

    def config(kind: str, name: str, **options: Any) -> Any:
        values = QUICK | {"epochs": 3, "batch_size": 4, "dataset": "sst2", "data_dir": sst2_dir}
        values |= KINDS[kind] | {"output_dir": tmp_path / name} | options
        if kind in ("train", "accumulated"):
            return TrainConfig(model=str(bert_dir), **values)
        return DistillConfig(teacher=str(teacher_run.path), **values)

    return config


def run(config: Any, reporter: Any = None) -> Run:
    command: Any = train if isinstance(config, TrainConfig) else distill
    return command(config, reporter or Notes())  # type: ignore[no-any-return]


def facts(run: Run) -> list[Any]:
    """Return what a run says of itself, without the time it took."""
    seconds = ("seconds", "examples_per_second")
    return [
        {name: value for name, value in record.items() if name not in seconds}
        for record in (run.metrics, *run.history)
    ]


def assert_same(resumed: Run, whole: Run) -> None:
    assert weights(resumed) == weights(whole)
    assert facts(resumed) == facts(whole)
    assert not checkpoint_folder(resumed.path).exists()


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """End a run right after it has written so many checkpoints; return how many were written."""
    written = [0]
    original = RunRecorder.checkpoint

    def checkpoint(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        written[0] += 1
        if written[0] == count:
            raise Killed

    monkeypatch.setattr(RunRecorder, "checkpoint", checkpoint)
    return written


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_to_the_bits_of_one_that_was_not_stopped(
    kind: str, precision: str, make: Make, monkeypatch: pytest.MonkeyPatch, cpu: None
) -> None:
    """Whatever a checkpoint forgets shows: a generator, a moment, the schedule, the best epoch."""
    config = make(kind, "whole", precision=precision)
    whole = run(config)
    with monkeypatch.context() as patch:
        written = stop_after(0, patch)
        assert_same(run(make(kind, "watched", precision=precision, checkpoint_every=1)), whole)
    bf16_only = precision == "bf16"
    points = {1, written[0]} if bf16_only else {2, written[0] // 3, written[0] // 2 + 1, written[0] - 1}
    for point in sorted(points):
        options = {"precision": precision, "checkpoint_every": 1}
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_after(point, patch)
            run(make(kind, f"cut-{point}", **options))
        torch.manual_seed(99)
        resumed = run(make(kind, f"cut-{point}", **options, resume=True))
        assert_same(resumed, whole)
        assert resumed.config.resume is False, "the file repeats the run"


def test_students_side_by_side_go_on_to_the_same_bits(
    make: Make, monkeypatch: pytest.MonkeyPatch, cpu: None
) -> None:
    """Generators that lanes share by mistake would be set back under each other's feet."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:

        def configs(folder: str, **options: Any) -> list[DistillConfig]:
            return [make("bilstm", f"{folder}/{seed}", seed=seed, **options) for seed in (1, 2, 3)]

        whole = distill_many(configs("whole"))
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_after(19, patch)
            distill_many(configs("cut", checkpoint_every=1))
        resumed = distill_many(configs("cut", checkpoint_every=1, resume=True))
        for run_before, run_after in zip(whole, resumed, strict=True):
            assert_same(run_after, run_before)
    finally:
        torch.set_num_threads(before)


# --- real signals ------------------------------------------------------------------------------------------


def start(config: Any, **options: Any) -> "subprocess.Popen[str]":
    """Start the command line of a config in a process of its own."""
    values = config.model_dump(mode="json", exclude_unset=True) | options
    file = Path(config.output_dir).with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    command = [sys.executable, "-m", "distilkit", "train" if isinstance(config, TrainConfig) else "distill"]
    return subprocess.Popen(
        [*command, "--config", str(file)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"ACCELERATE_TORCH_DEVICE": "cpu"},
    )


def send_after(
    process: "subprocess.Popen[str]", output_dir: Path, count: int, number: signal.Signals
) -> bool:
    """Send a signal once `count` checkpoints are written; return whether the process was still at work."""
    while process.poll() is None:
        latest = find_checkpoint(output_dir)
        if latest and int(latest.name) >= count:
            process.send_signal(number)
            return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("kind", ["train", "bilstm"])
def test_a_run_survives_sigkill_at_random_moments(kind: str, make: Make, cpu: None) -> None:
    """Also while a checkpoint is written, renamed, or the one before is removed."""
    options = {"epochs": 40, "checkpoint_every": 1}
    whole = run(make(kind, "whole", epochs=40))
    config = make(kind, "killed", **options)
    moments = random.Random()
    kills, latest = 0, 0
    for _ in range(3):
        resume = find_checkpoint(config.output_dir) is not None
        process = start(config, resume=resume)
        count = latest + moments.randint(1, 40)
        kills += send_after(process, config.output_dir, count, signal.SIGKILL)
        process.communicate()
        checkpoint = find_checkpoint(config.output_dir)
        assert checkpoint, (kind, count)
        latest = int(checkpoint.name)
    assert kills == 3
    assert_same(run(make(kind, "killed", epochs=40, resume=True)), whole)
    assert sorted(path.name for path in config.output_dir.parent.iterdir()) == [
        "killed",
        "killed.yaml",
        "whole",
    ]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_saves_the_state_and_says_how_to_go_on(
    number: signal.Signals, code: int, make: Make, cpu: None
) -> None:
    """A scheduler that pre-empts the job, or a person at the keyboard, loses no step."""
    config = make("bilstm", "stopped", epochs=30, checkpoint_every=1)
    process = start(config)
    assert send_after(process, config.output_dir, 5, number)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert f"Go on with: distilkit distill --config {config.output_dir}.yaml --resume" in errors
    assert find_checkpoint(config.output_dir) and not config.output_dir.exists()
    resumed = run(make("bilstm", "stopped", epochs=30, resume=True))
    assert_same(resumed, run(make("bilstm", "whole", epochs=30)))


def test_a_request_writes_a_checkpoint_where_none_is_due(
    make: Make, monkeypatch: pytest.MonkeyPatch, cpu: None
) -> None:
    steps = [0]

    def is_requested() -> bool:
        steps[0] += 1
        return steps[0] > 5

    def raise_stop() -> None:
        raise KeyboardInterrupt

    notes = Notes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("distilkit.engine.training.checkpoints.is_stop_requested", is_requested)
        patch.setattr(recording, "is_stop_requested", lambda: True)
        patch.setattr(recording, "raise_stop", raise_stop)
        patch.setattr(sys, "argv", ["distilkit", "train", "-o", "a b", "--checkpoint-every", "60m"])
        run(make("train", "cut", checkpoint_every="60m"), notes)
    assert "Go on with: distilkit train -o 'a b' --checkpoint-every 60m --resume" in notes.notes[-1]
    assert_same(run(make("train", "cut", checkpoint_every="60m", resume=True)), run(make("train", "whole")))


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.fixture
def stopped(make: Make, monkeypatch: pytest.MonkeyPatch, cpu: None) -> Make:
    """Return `make`, with a BiLSTM named "cut" that was stopped after three checkpoints."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(3, patch)
        run(make("bilstm", "cut", checkpoint_every=1))
    return make


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 2e-2}, r"--learning-rate 0\.01, now 0\.02"),
        ({"epochs": 4}, "--epochs 3, now 4"),
        ({"seed": 7}, "--seed 42, now 7"),
        ({"precision": "bf16"}, "--precision 'fp32', now 'bf16'"),
        ({"max_train_samples": 12}, "--max-train-samples None, now 12; the rows of the split train"),
    ],
)
def test_another_command_is_refused_by_the_option_that_differs(
    options: dict[str, Any], message: str, stopped: Make
) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(stopped("bilstm", "cut", resume=True, **options))
    assert "stays" in str(error.value)
    assert_same(run(stopped("bilstm", "cut", resume=True)), run(stopped("bilstm", "whole")))


def test_other_data_are_refused(stopped: Make, sst2_dir: Path, tmp_path: Path) -> None:
    """The same rows in another folder are the same data; one other label makes them others."""
    for name in ("train", "validation"):
        text = (sst2_dir / f"{name}.jsonl").read_text()
        lines = text.splitlines()
        if name == "validation":
            row = json.loads(lines[0])
            lines[0] = json.dumps(row | {"label": 1 - row["label"]})
        (tmp_path / "same").mkdir(exist_ok=True)
        (tmp_path / "changed").mkdir(exist_ok=True)
        (tmp_path / "same" / f"{name}.jsonl").write_text(text)
        (tmp_path / "changed" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="the rows of the split validation"):
        run(stopped("bilstm", "cut", resume=True, data_dir=tmp_path / "changed"))
    run(stopped("bilstm", "cut", resume=True, data_dir=tmp_path / "same"))


def test_another_number_of_threads_is_warned_of(stopped: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    run(stopped("bilstm", "cut", resume=True), notes)
    warned = [note for note in notes.notes if "last bits" in note]
    assert len(warned) == 1 and f"threads {threads}, now {threads + 1}" in warned[0]


def test_a_checkpoint_stays_where_nobody_asked_for_its_end(stopped: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        run(stopped("bilstm", "cut"))
    assert find_checkpoint(tmp_path / "cut")
    assert_same(run(stopped("bilstm", "cut", overwrite=True)), run(stopped("bilstm", "whole")))


def test_a_disk_that_fills_ends_the_run_with_one_error(
    stopped: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"No space left on device.*stays"):
        patch.setattr("distilkit.workflows.fitting.checkpoint_folder.save_file", refuse)
        run(stopped("bilstm", "cut", checkpoint_every=1, resume=True))
    assert_same(run(stopped("bilstm", "cut", resume=True)), run(stopped("bilstm", "whole")))


def test_a_stack_on_a_gpu_says_that_it_has_no_checkpoints(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be silently left out."""
    monkeypatch.setattr("distilkit.workflows.distillation.scheduling.stackable", lambda *_: True)
    with pytest.raises(UserError, match="has no checkpoints"):
        distill_many([make("bilstm", str(seed), seed=seed, checkpoint_every=5) for seed in (1, 2)])
