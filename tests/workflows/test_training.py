"""`train`: a run written whole, repeatable, of the best epoch, that never saw the test split."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    QUICK,
    Interrupt,
    Notes,
    lively,
    pair_rows,
    rows,
    tiny_bert,
    tiny_tokenizer,
    weights,
    write_jsonl,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilkit import TrainConfig, UserError, train
from distilkit.config import resolve
from distilkit.config.fields import make_config, read_values
from distilkit.models.loading import fingerprint
from distilkit.runs import folder
from distilkit.runs.run import Run
from distilkit.workflows import training
from distilkit.workflows.fitting import recorder


@pytest.fixture
def config(sst2_dir: Path, bert_dir: Path, tmp_path: Path) -> Any:
    """`config(**options)`: a quick `TrainConfig` on SST-2's layout, into `tmp_path / "run"`."""

    def make(**options: Any) -> TrainConfig:
        known: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": sst2_dir, "model": str(bert_dir)}
        known |= {"output_dir": tmp_path / "run", "learning_rate": 3e-3}
        return TrainConfig(**(known | options))

    return make


def files_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# --- the run -----------------------------------------------------------------------------------------------


def test_a_run_holds_what_it_promises_and_nothing_else(config: Any, teacher_run: Run) -> None:
    promised = {"config.yaml", "model", "history.jsonl", "metrics.json", "environment.json"}
    assert files_in(train(config(epochs=1)).path) == promised
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files_in(teacher_run.model_path)
    assert [record["epoch"] for record in teacher_run.history] == list(range(1, 13))
    assert [record["step"] for record in teacher_run.history] == list(range(2, 25, 2))
    metrics = teacher_run.metrics
    best = teacher_run.history[metrics["best_epoch"] - 1]
    assert metrics["validation"] == best["validation"] and metrics["metric"] == "accuracy"
    assert best["improved"] and not any(r["improved"] for r in teacher_run.history[metrics["best_epoch"] :])
    size = (teacher_run.model_path / "model.safetensors").stat().st_size
    assert metrics["bytes"] == size and metrics["seconds"] > 0
    environment = teacher_run.environment
    assert environment["command"] == "train" and environment["loss"] == "loss = CE(model, labels)"
    assert environment["seed"] == 42 and environment["precision"] == "fp32"
    assert environment["dataset"]["rows"] == {"train": 16, "validation": 8}
    assert environment["start"] <= environment["end"]


def test_a_run_has_its_own_figures_where_another_takes_its_folder_at_once(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two runs with --overwrite, the first would print the figures of the second as its own."""
    move_in = folder.move_in

    def lose(draft: Any, target: Path) -> None:
        move_in(draft, target)
        for name in ("metrics.json", "environment.json"):
            (target / name).write_text(json.dumps({"parameters": 1, "command": "distill", "seed": 7}))

    monkeypatch.setattr(folder, "move_in", lose)
    run = train(config(epochs=1))
    assert run.metrics["parameters"] > 1 and run.environment["seed"] == run.config.seed == 42


def test_a_single_row_is_no_rows(config: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 16), ("validation", 1)):
        write_jsonl(
            data / f"{split}.jsonl",
            [{"text": text, "label": i % 2} for i, text in enumerate("abcdefghijklmnop"[:count])],
        )
    notes = Notes()
    train(config(dataset=None, data_dir=data, text_column="text", epochs=1), notes)
    assert any(note.endswith("train 16 rows, validation 1 row") for note in notes.notes), notes.notes


def test_the_teacher_learns(teacher_run: Run) -> None:
    """Frozen weights, a loss on the wrong rows or labels out of order leave the accuracy at a half."""
    assert teacher_run.metrics["validation"]["accuracy"] >= 0.875
    losses = [record["loss"] for record in teacher_run.history]
    assert losses[-1] < 0.7 * losses[0]
    assert all(record["hard_loss"] == record["loss"] for record in teacher_run.history)
    assert all(record["soft_loss"] is None for record in teacher_run.history)


def test_the_saved_config_is_resolved_and_reads_back_equal(config: Any) -> None:
    asked = config(epochs=1)
    run = train(asked)
    assert run.config == resolve(asked)
    assert Run.load(run.path).config == resolve(asked)


def test_plain_transformers_gives_the_accuracy_that_the_run_says(teacher_run: Run) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher_run.model_path)
    tokenizer = AutoTokenizer.from_pretrained(teacher_run.model_path)
    right, loss = 0, 0.0
    for row in rows(1):
        with torch.no_grad():
            logits = model(**tokenizer(row["sentence"], return_tensors="pt")).logits[0]
        right += int(logits.argmax() == row["label"])
        loss += float(-logits.log_softmax(dim=0)[row["label"]]) / 8
    validation = teacher_run.metrics["validation"]
    assert validation["accuracy"] == right / 8
    assert validation["loss"] == pytest.approx(loss, rel=1e-4)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_it_tells_its_formula_and_every_epoch(config: Any) -> None:
    reporter = Notes()
    train(config(), reporter)
    assert "loss = CE(model, labels)" in reporter.notes
    assert [note[:10] for note in reporter.notes if note.startswith("epoch")] == ["epoch 1/2 ", "epoch 2/2 "]
    assert reporter.progress["tokenize train"] == (16, 16)


def test_it_tells_the_classes_and_what_is_wrong_with_the_rows(config: Any, tmp_path: Path) -> None:
    """A hold-out of one class gave accuracy 1.0, and a class called nan was learned, without a word."""
    reporter = Notes()
    train(config(epochs=1), reporter)
    assert "classes: negative 8, positive 8" in reporter.notes
    values = [row | {"label": ("bad", "good")[row["label"]]} for row in rows(2)]
    write_jsonl(tmp_path / "data" / "train.jsonl", [*values, *({"sentence": "a", "label": "nan"},) * 2])
    write_jsonl(tmp_path / "data" / "validation.jsonl", values[8:])
    own: dict[str, Any] = {"dataset": None, "data_dir": tmp_path / "data", "text_column": "sentence"}
    run = train(config(epochs=1, output_dir=tmp_path / "own", **own), reporter := Notes())
    assert "classes: bad 8, good 8, nan 2" in reporter.notes
    findings = [note for note in reporter.notes if note.startswith(("warning", "error"))]
    assert any("'nan' is taken for a class, and looks like a missing label" in note for note in findings)
    assert any("validation has no row of bad, nan (bad 0, good 8, nan 0)" in note for note in findings)
    assert any("validation rows are training rows too" in note for note in findings)
    assert run.metrics["validation"]["accuracy"] >= 0  # findings stop nothing


# --- repeatable --------------------------------------------------------------------------------------------


def test_the_saved_config_repeats_the_run_to_the_bit(config: Any, tmp_path: Path) -> None:
    first = train(config())
    values = read_values(first.path / "config.yaml") | {"output_dir": tmp_path / "again"}
    again = train(make_config(TrainConfig, values))
    assert weights(again) == weights(first)
    assert again.metrics["validation"] == first.metrics["validation"]
    torch.rand(7)  # what ran before in the process must not matter either
    other = train(config(output_dir=tmp_path / "other", seed=1))
    assert weights(other) != weights(first)


def test_8_x_4_trains_the_same_teacher_as_32_x_1(config: Any, tmp_path: Path, sst2_dir: Path) -> None:
    """Through the whole command, on a BERT: dropout is off, and steps do not divide the rows."""
    from transformers import BertForSequenceClassification

    folder = tmp_path / "without-dropout"
    shutil.copytree(config().model, folder)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | still))
    histories, logits = [], []
    for name, batch_size, accumulate in (("whole", 12, 1), ("cut", 3, 4)):
        run = train(
            config(
                output_dir=tmp_path / name,
                model=str(folder),
                batch_size=batch_size,
                gradient_accumulation_steps=accumulate,
                max_train_samples=15,
                learning_rate=1e-3,
            )
        )
        histories.append([(record["step"], record["loss"]) for record in run.history])
        model = BertForSequenceClassification.from_pretrained(run.model_path)
        logits.append(model(torch.tensor([[2, 7, 15, 13, 3]])).logits)
    assert [step for step, _ in histories[0]] == [step for step, _ in histories[1]] == [2, 4]
    assert [loss for _, loss in histories[0]] == pytest.approx([loss for _, loss in histories[1]], rel=1e-3)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=1e-2)


# --- the best epoch, and no test split ---------------------------------------------------------------------


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`canned(scores)`: validation answers with these; returns the fingerprints of what it was shown."""

    def can(answers: list[dict[str, float]]) -> list[str]:
        shown: list[str] = []
        predict = recorder.predict_logits
        rest = iter(answers)

        def watched(model: Any, *arguments: Any, **options: Any) -> Any:
            shown.append(fingerprint(model))
            return predict(model, *arguments, **options)

        monkeypatch.setattr(recorder, "predict_logits", watched)
        monkeypatch.setattr(recorder, "score", lambda *_, **__: {"loss": 0.0} | next(rest))
        return shown

    return can


def saved_fingerprint(run: Run) -> str:
    return fingerprint(AutoModelForSequenceClassification.from_pretrained(run.model_path))


@pytest.mark.parametrize(
    ("accuracies", "best"), [((0.5, 0.9, 0.1), 2), ((0.7, 0.7, 0.7), 1), ((0.0, 0.0, 0.3), 3)]
)
def test_the_model_that_is_saved_is_that_of_the_best_epoch(
    config: Any, canned: Any, accuracies: tuple[float, ...], best: int
) -> None:
    shown = canned([{"accuracy": accuracy} for accuracy in accuracies])
    run = train(config(epochs=3))
    assert run.metrics["best_epoch"] == best
    assert run.metrics["validation"]["accuracy"] == accuracies[best - 1]
    assert saved_fingerprint(run) == shown[best - 1]
    assert len(set(shown)) == 3


def test_mrpcs_best_epoch_is_the_best_by_f1_and_not_by_accuracy(
    config: Any, canned: Any, mrpc_dir: Path
) -> None:
    answers = [(0.5, 0.8), (0.6, 0.9), (0.9, 0.7)]
    shown = canned([{"accuracy": accuracy, "f1": f1} for accuracy, f1 in answers])
    run = train(config(dataset="mrpc", data_dir=mrpc_dir, epochs=3))
    assert (run.metrics["best_epoch"], run.metrics["metric"]) == (2, "f1")
    assert saved_fingerprint(run) == shown[1]


def test_patience_ends_training_early(config: Any, canned: Any) -> None:
    canned([{"accuracy": accuracy} for accuracy in (0.5, 0.6, 0.6, 0.4, 0.9)])
    run = train(config(epochs=5, patience=2))
    assert len(run.history) == 4 and run.metrics["best_epoch"] == 2


def test_a_model_that_learned_nothing_is_named_at_the_end(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where most rows have one class, its accuracy and F1 look like those of a good model."""

    def positive(model: Any, encoded: Any, **_: Any) -> Any:
        return torch.tensor([[0.0, 1.0]]).repeat(len(encoded), 1)

    values = [row for row in rows(1) if row["label"]] + rows(1)[:1]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", values)
    warning = "warning: {} answers `positive` to every row: no better than the most frequent class (80.0 %)."
    for patched in (False, True):
        reporter, folder = Notes(), tmp_path / f"run-{patched}"
        if patched:
            monkeypatch.setattr(recorder, "predict_logits", positive)
        train(config(data_dir=tmp_path / "data", output_dir=folder, epochs=1), reporter)
        assert not patched or warning.format(folder) in reporter.notes
    reporter = Notes()
    perfect = torch.nn.functional.one_hot(torch.tensor([row["label"] for row in rows(1)])).float()
    monkeypatch.setattr(recorder, "predict_logits", lambda *_, **__: perfect)
    train(config(output_dir=tmp_path / "good", epochs=1), reporter)
    assert not [note for note in reporter.notes if "most frequent" in note]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_validation_logits_that_are_no_numbers_end_the_training(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Their largest is class 0: the epoch would be kept for an accuracy that nothing answered."""

    def broken(model: Any, encoded: Any, **_: Any) -> Any:
        return torch.tensor([[value, 1.0]]).repeat(len(encoded), 1)

    monkeypatch.setattr(recorder, "predict_logits", broken)
    with pytest.raises(UserError, match="logits are NaN or infinite in 8 of 8 validation rows"):
        train(config(output_dir=tmp_path / "run"))
    assert files_in(tmp_path) == set()


def test_a_tie_goes_to_the_epoch_with_the_lower_loss(config: Any, canned: Any) -> None:
    """With few validation rows ties are the rule, and the first epoch is the one that has learned least."""
    losses = (0.48, 0.52, 0.45, 0.45)
    canned([{"accuracy": 0.75, "loss": loss} for loss in losses])
    notes = Notes()
    run = train(config(epochs=4), notes)
    assert [record["improved"] for record in run.history] == [True, False, True, False]
    assert run.metrics["best_epoch"] == 3
    assert any(note.endswith("best so far, by validation loss 0.4500") for note in notes.notes)


@pytest.mark.parametrize(
    ("metric", "best"), [(None, 1), ("accuracy", 1), ("f1", 2), ("f1_macro", 3), ("mcc", 4), ("loss", 5)]
)
def test_the_metric_that_is_asked_for_picks_the_epoch(
    metric: str | None, best: int, config: Any, canned: Any
) -> None:
    """On rows that are mostly of one class, F1 of that class keeps a model that answers nothing else."""
    scores = [
        {name: 0.9 if epoch == place else 0.5 for place, name in enumerate(("accuracy", "f1"), 1)}
        for epoch in range(1, 6)
    ]
    for epoch, values in enumerate(scores, 1):
        values |= {"f1_macro": 0.9 if epoch == 3 else 0.5, "mcc": 0.9 if epoch == 4 else -0.5}
        values["loss"] = 0.1 if epoch == 5 else 0.7
    canned(scores)
    run = train(config(epochs=5, metric=metric))
    assert (run.metrics["best_epoch"], run.metrics["metric"]) == (best, metric or "accuracy")
    assert run.config.metric == metric


def test_mcc_is_measured_where_it_picks_the_epoch(config: Any) -> None:
    run = train(config(epochs=1, metric="mcc"))
    assert -1 <= run.metrics["validation"]["mcc"] <= 1
    assert "mcc" not in train(config(epochs=1, overwrite=True)).metrics["validation"]


def test_f1_of_one_class_is_refused_for_three(config: Any, tmp_path: Path) -> None:
    """Else the first validation, after an epoch of training, would end in a traceback."""
    data = tmp_path / "three"
    write_jsonl(data / "train.jsonl", [{"text": f"a film {n}", "label": n % 3} for n in range(12)])
    write_jsonl(data / "validation.jsonl", [{"text": f"no film {n}", "label": n % 3} for n in range(6)])
    with pytest.raises(UserError, match=r"three has 3 classes\. Use --metric f1_macro"):
        train(config(dataset=None, data_dir=data, metric="f1"))
    assert not (tmp_path / "run").exists()


def test_the_test_split_is_never_opened(config: Any, sst2_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(sst2_dir, tmp_path / "data")
    (tmp_path / "data" / "test.jsonl").write_bytes(b"\x00 this is no data at all")
    assert train(config(data_dir=tmp_path / "data", epochs=1)).metrics["best_epoch"] == 1


# --- data --------------------------------------------------------------------------------------------------


def test_a_head_for_other_classes_is_replaced_and_classes_of_ones_own_keep_their_names(
    config: Any, tmp_path: Path
) -> None:
    texts = {"good": "great fun", "bad": "no fun", "so-so": "a film"}
    values = [{"text": text, "label": label} for label, text in texts.items() for _ in range(4)]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "own" / f"{split}.jsonl", values)
    lively(tiny_bert(), factor=10).save_pretrained(tmp_path / "bert")  # the tiny one as it is learns by luck
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    own = {"dataset": None, "data_dir": tmp_path / "own", "model": str(tmp_path / "bert")}
    reporter = Notes()
    run = train(config(**own, epochs=30, learning_rate=5e-3), reporter)
    model = AutoModelForSequenceClassification.from_pretrained(run.model_path)
    assert model.config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    assert "new: classifier.bias, classifier.weight" in " ".join(reporter.notes)
    assert "f1" not in run.metrics["validation"]
    assert run.metrics["validation"]["accuracy"] == 1.0


def test_pairs_reach_the_model_as_pairs(config: Any, mrpc_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the second text left out MRPC still trains, to the majority class."""
    given: list[Any] = []
    original = training.fit_into_run

    def watched(job: Any, train_rows: Any, *arguments: Any) -> Any:
        given.append((job.tokenizer, train_rows))
        return original(job, train_rows, *arguments)

    monkeypatch.setattr("distilkit.workflows.training.fit_into_run", watched)
    train(config(dataset="mrpc", data_dir=mrpc_dir, epochs=1))
    tokenizer, train_rows = given[0]
    first = pair_rows()[0]
    batch = train_rows.batch([0])
    expected = tokenizer(first["sentence1"], first["sentence2"])
    assert batch["input_ids"][0].tolist() == expected["input_ids"]
    assert batch["token_type_ids"][0].tolist() == expected["token_type_ids"]
    assert 1 in expected["token_type_ids"] and batch["labels"].tolist() == [first["label"]]


# --- whole or not at all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["model:", "loss = ", "epoch 1/2", "epoch 2/2"])
def test_an_interrupted_run_leaves_nothing_behind(config: Any, tmp_path: Path, word: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config(output_dir=tmp_path / "new" / "folder" / "run"), Interrupt(word))
    assert files_in(tmp_path) == set()


def test_an_interrupted_overwrite_leaves_the_old_run_as_it_was(config: Any, tmp_path: Path) -> None:
    old = train(config(epochs=1))
    before = weights(old)
    with pytest.raises(KeyboardInterrupt):
        train(config(overwrite=True, seed=1), Interrupt("epoch 2/2"))
    assert weights(Run.load(old.path)) == before
    assert files_in(tmp_path) == {"run"}
    new = train(config(overwrite=True, seed=1, epochs=1))
    assert weights(new) != before and files_in(tmp_path) == {"run"}
    assert new.config.overwrite is False  # repeating it must not replace it


def test_a_folder_that_holds_something_is_refused_before_any_work(config: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work", encoding="utf-8")
    for overwrite in (False, True):
        reporter = Notes()
        with pytest.raises(UserError, match="--output-dir"):
            train(config(overwrite=overwrite), reporter)
        assert reporter.notes == []
    assert files_in(tmp_path / "run") == {"thesis.txt"}


@pytest.mark.parametrize("epochs", [1, 5])
def test_training_that_diverges_is_an_error_and_leaves_nothing(
    config: Any, tmp_path: Path, epochs: int
) -> None:
    """One epoch is a single step here: its loss is that of the weights before it, and looks well."""
    options = {"learning_rate": 1e38, "weight_decay": 0.1, "warmup_ratio": 0, "batch_size": 16}
    with pytest.raises(UserError, match="finite"):
        train(config(epochs=epochs, **options))
    assert files_in(tmp_path) == set()
