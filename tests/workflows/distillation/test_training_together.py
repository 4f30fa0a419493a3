"""BiLSTMs whose steps are computed as one model, as on CUDA: whole runs, each as it would be alone."""

import errno
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEVICES, QUICK, Interrupt, Notes, half_labelled, noisy_rows, pair_rows, rows, write_jsonl
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilkit import DistillConfig, UserError, distill
from distilkit.models.bilstm import BiLSTMForSequenceClassification
from distilkit.runs.run import Run
from distilkit.workflows.distillation import inputs, scheduling
from distilkit.workflows.distillation.workflow import distill_many
from distilkit.workflows.fitting import fit, recorder

Make = Callable[..., DistillConfig]


@pytest.fixture(params=DEVICES)
def as_one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA chooses this way by itself; a CPU is told to take it."""
    if request.param == "cpu":
        monkeypatch.setattr(scheduling, "stackable", lambda device, precision: True)
    monkeypatch.setattr(scheduling, "MIN_STACKED", 2)
    monkeypatch.setattr(scheduling, "MAX_STACKED", 4)


@pytest.fixture
def config(sst2_dir: Path, teacher_run: Run, tmp_path: Path) -> Make:
    def make(name: str, **options: Any) -> DistillConfig:
        known: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": sst2_dir, "learning_rate": 1e-2}
        known |= {"student": "bilstm", "hidden_size": 6, "embedding_size": 6, "dropout": 0.3, "epochs": 3}
        known |= {"teacher": str(teacher_run.path), "output_dir": tmp_path / name}
        return DistillConfig(**(known | options))

    return make


def grid(config: Make, folder: str, **options: Any) -> list[DistillConfig]:
    return [
        config(f"{folder}/{alpha}-{seed}", alpha=alpha, seed=seed, **options)
        for alpha, seed in itertools.product((0, 0.4, 1), (1, 2))
    ]


def logits_of(run: Run, pairs: bool = False) -> Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(run.model_path)
    tokenizer = AutoTokenizer.from_pretrained(run.model_path)
    values = pair_rows(1) if pairs else rows(1)
    texts = [
        [row[name] for row in values] for name in (("sentence1", "sentence2") if pairs else ("sentence",))
    ]
    with torch.no_grad():
        found: Tensor = model(**tokenizer(*texts, padding=True, return_tensors="pt")).logits
    return found


def without_time(run: Run) -> Any:
    timed = ("seconds", "examples_per_second")
    return [{name: value for name, value in record.items() if name not in timed} for record in run.history]


KINDS: dict[str, dict[str, Any]] = {
    "sentences": {},
    "pairs": {},
    "two layers": {"layers": 2},
    "last states": {"pooling": "last"},
    "fewer dimensions": {"vocabulary": "teacher", "embedding_size": 8},
    "hidden words": {"word_dropout": 0.3, "dropout": 0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_run_is_what_distill_makes_of_its_config_alone(
    config: Make, kind: str, mrpc_dir: Path, make_bert: Any, as_one: None
) -> None:
    """Six students, four and two at a time: any that heard another's teacher, labels or dropout differs."""
    options = KINDS[kind]
    if kind == "pairs":
        teacher = make_bert(names=("not_equivalent", "equivalent"))
        options = {"dataset": "mrpc", "data_dir": mrpc_dir, "teacher": str(teacher)}
    options = options | {"learning_rate": 5e-2}
    within = 2e-2 if torch.cuda.is_available() else 1e-3  # there cuDNN's LSTM rounds as it likes
    together = distill_many(grid(config, "together", **options))
    alone = [distill(one) for one in grid(config, "alone", **options)]
    assert [run.path.name for run in together] == [run.path.name for run in alone]
    pairs = kind == "pairs"
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(logits_of(one, pairs), logits_of(other, pairs), atol=within, rtol=0)
        for mine, theirs in zip(without_time(one), without_time(other), strict=True):
            assert mine.keys() == theirs.keys()
            for name in ("loss", "hard_loss", "soft_loss", "learning_rate", "step", "epoch"):
                assert mine[name] == pytest.approx(theirs[name], abs=within), (one.path.name, name)
        assert one.metrics["parameters"] == other.metrics["parameters"]
        expected = other.environment | {"trained_together": 4}
        assert one.environment.keys() == expected.keys()
        for name in ("loss", "seed", "precision", "student", "dataset"):
            assert one.environment[name] == expected[name]
        assert ("teachers" in one.environment) == ("teachers" in other.environment)
    logits = [logits_of(run, pairs) for run in together]
    assert all((a - b).abs().max() > within for a, b in itertools.combinations(logits, 2)), "they are six"


def test_rows_without_a_label_weigh_the_same_in_company(
    config: Make, as_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_labelled(monkeypatch)
    options = {"dropout": 0.0, "learning_rate": 5e-2}
    together = distill_many([config(f"together/{seed}", alpha=0.4, seed=seed, **options) for seed in (1, 2)])
    alone = distill(config("alone", alpha=0.4, seed=2, **options))
    for mine, theirs in zip(together[1].history, alone.history, strict=True):
        assert mine["hard_loss"] == pytest.approx(theirs["hard_loss"], abs=2e-2)


def test_alphas_that_move_are_in_one_company(config: Make, as_one: None) -> None:
    ways: list[dict[str, Any]] = [{"alpha": 0, "alpha_end": 1}, {"alpha": 1}, {"alpha": 1, "alpha_end": 0.3}]
    options: dict[str, Any] = {"dropout": 0.0, "learning_rate": 5e-2}
    together = distill_many([config(f"together/{i}", **way, **options) for i, way in enumerate(ways)])
    for number, way in enumerate(ways):
        alone = distill(config(f"alone/{number}", **way, **options))
        assert together[number].environment["trained_together"] == 3
        assert together[number].environment["loss"] == alone.environment["loss"]
        for mine, theirs in zip(together[number].history, alone.history, strict=True):
            for name in ("loss", "hard_loss", "soft_loss"):
                assert mine[name] == pytest.approx(theirs[name], abs=2e-2), (number, name)


def test_each_student_has_a_temperature_of_its_own_in_company(
    config: Make, tmp_path: Path, as_one: None
) -> None:
    """Fitted to another's answers, it would make a student worse, and nothing fail."""
    write_jsonl(tmp_path / "data" / "train.jsonl", rows())
    write_jsonl(tmp_path / "data" / "validation.jsonl", noisy_rows())
    options: dict[str, Any] = {"data_dir": tmp_path / "data", "epochs": 8, "learning_rate": 3e-2}
    ways: list[dict[str, Any]] = [{"alpha": 0}, {"alpha": 1}, {"alpha": 0, "calibrate": False}]
    together = distill_many([config(f"together/{i}", **way, **options) for i, way in enumerate(ways)])
    assert together[0].environment["trained_together"] == 3
    told = [run.metrics.get("calibration") for run in together]
    assert told[2] is None and abs(told[0]["temperature"] - told[1]["temperature"]) > 0.05
    torch.testing.assert_close(
        told[0]["temperature"] * logits_of(together[0]), logits_of(together[2]), atol=1e-3, rtol=1e-3
    )
    for way, run in zip(ways, together, strict=True):
        alone = distill(config(f"alone/{run.path.name}", **way, **options))
        torch.testing.assert_close(logits_of(run), logits_of(alone), atol=5e-2, rtol=5e-2)


def test_a_run_says_how_many_shared_its_steps(config: Make, as_one: None) -> None:
    """Its seconds are those of all of them."""
    notes = Notes()
    runs = distill_many(grid(config, "runs"), notes)
    assert [run.environment["trained_together"] for run in runs] == [4, 4, 4, 4, 2, 2]
    assert distill(config("alone")).environment["trained_together"] == 1
    assert "0.4-2: epoch 3/3" in " ".join(notes.notes)


def test_students_trained_in_other_ways_are_not_put_together(config: Make, as_one: None) -> None:
    """One schedule and one batch size serve all of a stack."""
    ways: list[dict[str, Any]] = [{"seed": 1}, {"learning_rate": 3e-2}, {"seed": 2}, {"batch_size": 4}]
    ways += [{"soft_loss": "kl", "seed": seed} for seed in (1, 2)]
    runs = distill_many([config(f"together/{i}", **way) for i, way in enumerate(ways)])
    assert [run.environment["trained_together"] for run in runs] == [2, 1, 2, 1, 2, 2]
    for number, way in enumerate(ways):
        alone = distill(config(f"alone/{number}", **way))
        torch.testing.assert_close(logits_of(runs[number]), logits_of(alone), atol=2e-2, rtol=0)


def test_one_that_diverges_lets_the_others_finish(
    config: Make, tmp_path: Path, as_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = inputs.make_student

    def poisoned(one: DistillConfig, *arguments: Any) -> Any:
        student = original(one, *arguments)
        if one.seed == 2 and isinstance(student.model, BiLSTMForSequenceClassification):
            with torch.no_grad():
                student.model.classifier.bias[0] = float("inf")
        return student

    monkeypatch.setattr(inputs, "make_student", poisoned)
    with pytest.raises(UserError, match=r"b: .*finite(.|\n)*The other 2 finished"):
        distill_many([config(f"runs/{name}", seed=seed) for seed, name in enumerate("abc", start=1)])
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a", "c"]
    for name in "ac":
        assert len(Run.load(tmp_path / "runs" / name).history) == 3


@pytest.mark.parametrize("word", ["student:", "teacher:", "loss = ", "epoch 1/3", "epoch 3/3"])
def test_interrupted_students_leave_nothing_behind(
    config: Make, tmp_path: Path, word: str, as_one: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill_many(grid(config, "deep/down"), Interrupt(word))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_filled_meanwhile_costs_only_its_own_run(config: Make, tmp_path: Path, as_one: None) -> None:
    class Filling(Notes):
        def note(self, message: str) -> None:
            super().note(message)
            if "b: epoch 3/3" in message:
                (tmp_path / "b").mkdir()
                (tmp_path / "b" / "thesis.txt").write_text("mine")

    with pytest.raises(UserError, match=r"b: .*complete and lies in"):
        distill_many([config(name, seed=seed) for seed, name in enumerate("abc")], Filling())
    assert [len(Run.load(tmp_path / name).history) for name in "ac"] == [3, 3]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 1, 1]), (4, [4] * 4)])
def test_a_few_students_are_trained_one_after_another(
    config: Make, as_one: None, monkeypatch: pytest.MonkeyPatch, count: int, expected: list[int]
) -> None:
    """A stack of two takes longer than the two, each with cuDNN's LSTM."""
    monkeypatch.setattr(scheduling, "MIN_STACKED", 4)
    runs = distill_many([config(f"{seed}", seed=seed, epochs=1) for seed in range(count)])
    assert [run.environment["trained_together"] for run in runs] == expected


def test_fp16_and_cpus_train_in_other_ways() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert scheduling.stackable(cuda, "bf16") and scheduling.stackable(cuda, "fp32")
    assert not scheduling.stackable(cuda, "fp16") and not scheduling.stackable(cpu, "fp32")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when …")],
    ids=["torch", "cuBLAS"],
)
def test_students_that_do_not_fit_together_are_halved_until_they_do(
    config: Make, as_one: None, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """Memory that runs out in the second epoch must not leave half-trained students behind as a start."""
    original, sizes = fit.fit, []

    def hungry(learner: Any, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(learner.students))
        for record in original(learner, *arguments, **options):
            if len(learner.students) > 2 and isinstance(record, tuple) and record[1].epoch == 2:
                raise error
            yield record

    monkeypatch.setattr(fit, "fit", hungry)
    notes = Notes()
    four = distill_many(grid(config, "halved")[:4], notes)
    assert sizes == [4, 2, 2]
    assert "4 students do not fit together, trying 2" in " ".join(notes.notes)
    monkeypatch.setattr(fit, "fit", original)
    for halved, whole in zip(four, distill_many(grid(config, "whole")[:4]), strict=True):
        assert [record["epoch"] for record in halved.history] == [1, 2, 3]
        torch.testing.assert_close(logits_of(halved), logits_of(whole), atol=1e-3, rtol=0)


def test_a_folder_filled_before_training_costs_only_its_own_run(
    config: Make, tmp_path: Path, as_one: None
) -> None:
    class Filling(Notes):
        def note(self, message: str) -> None:
            super().note(message)
            if message.startswith("student: "):
                (tmp_path / "b").mkdir()
                (tmp_path / "b" / "thesis.txt").write_text("mine")

    with pytest.raises(UserError, match=r"b: (.|\n)*not empty(.|\n)*The other 2 finished"):
        distill_many([config(name, seed=seed) for seed, name in enumerate("abc")], Filling())
    assert [len(Run.load(tmp_path / name).history) for name in "ac"] == [3, 3]


def test_a_disk_that_refuses_one_run_costs_only_that_one(
    config: Make, tmp_path: Path, as_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = recorder.save_model

    def full(model: Any, tokenizer: Any, folder: Path, max_length: int) -> None:
        if folder.parent.name.startswith(".b."):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(model, tokenizer, folder, max_length)

    monkeypatch.setattr(recorder, "save_model", full)
    with pytest.raises(UserError, match=r"b: --output-dir .*No space left(.|\n)*The other 2 finished"):
        distill_many([config(name, seed=seed) for seed, name in enumerate("abc")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_one_of_a_kind_is_trained_as_it_would_be_alone(
    config: Make, as_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate each is a kind each: cuDNN's LSTM is the better one for a single student."""
    monkeypatch.delattr(fit, "StackedLearner")
    distill_many([config("a", learning_rate=1e-2), config("b", learning_rate=2e-2)])


def test_labels_and_teacher_reach_those_who_need_them_whoever_comes_last(config: Make, as_one: None) -> None:
    """Of 1 and 0 the one has no logits joined to its rows and the other no labels."""
    for alphas in ((1, 0), (0, 1), (1, 1), (0, 0)):
        name = f"{alphas}"
        runs = distill_many(
            [config(f"{name}/{seed}", alpha=alpha, seed=seed) for seed, alpha in enumerate(alphas)]
        )
        for run, alpha in zip(runs, alphas, strict=True):
            last = run.history[-1]
            assert (last["soft_loss"] is None, last["hard_loss"] is None) == (alpha == 1, alpha == 0)
