"""`distill`: alpha acts, the teacher is heard right, and every student loads without us."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    BAD,
    GOOD,
    QUICK,
    SMALL,
    Interrupt,
    Notes,
    half_labelled,
    lively,
    noisy_rows,
    pair_rows,
    rows,
    tiny_tokenizer,
    watch_teacher,
    weights,
    write_jsonl,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import distilkit.models  # noqa: F401  # the Auto classes learn of the BiLSTM
from distilkit import DistillConfig, EvaluateConfig, UserError, distill, evaluate
from distilkit.config import resolve
from distilkit.config.fields import make_config, read_values
from distilkit.models.loading import fingerprint
from distilkit.runs.run import Run
from distilkit.scores.metrics import expected_calibration_error
from distilkit.workflows.distillation import scheduling, teachers


@pytest.fixture
def config(sst2_dir: Path, teacher_run: Run, tmp_path: Path) -> Any:
    """`config(**options)`: a quick `DistillConfig` on SST-2's layout, into `tmp_path / "run"`."""

    def make(**options: Any) -> DistillConfig:
        known: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": sst2_dir}
        known |= {"teacher": str(teacher_run.path), "output_dir": tmp_path / "run", "learning_rate": 1e-2}
        if options.get("student", "bilstm") == "bilstm":
            known |= SMALL | ({"embedding_size": None} if options.get("vocabulary") == "teacher" else {})
        return DistillConfig(**(known | options))

    return make


def logits_of(folder: Path | str, texts: list[str], pairs: list[str] | None = None) -> Tensor:
    """What plain transformers answers, a text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    second = pairs or [None] * len(texts)
    with torch.no_grad():
        return torch.cat(
            [
                model(**tokenizer(text, pair, return_tensors="pt")).logits
                for text, pair in zip(texts, second, strict=True)
            ]
        )


def relabelled(folder: Path, values: list[dict[str, Any]]) -> Path:
    """SST-2's layout with other training rows."""
    write_jsonl(folder / "train.jsonl", values)
    write_jsonl(folder / "validation.jsonl", rows(1))
    return folder


# --- alpha -------------------------------------------------------------------------------------------------


def test_alpha_1_never_touches_the_teacher(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that is loaded for nothing costs minutes; one that is heard makes it no baseline."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the teacher was touched")

    touches = (
        "find_model",
        "load_classifier",
        "load_named_tokenizer",
        "predict_texts",
        "gather_teacher_logits",
    )
    for name in touches:
        monkeypatch.setattr(teachers, name, fail)
    missing = distill(config(alpha=1, teacher="/does/not/exist", vocabulary="words"))
    none = distill(config(alpha=1, teacher=None, output_dir=tmp_path / "none"))
    assert weights(missing) == weights(none)
    assert all(record["soft_loss"] is None for record in missing.history)
    assert missing.environment["loss"] == "loss = CE(student, labels)"
    assert "teachers" not in missing.environment


def test_alpha_0_reads_no_training_label(config: Any, tmp_path: Path) -> None:
    """The weights are the same to the byte with labels turned round, of one class only, or missing."""
    plain = distill(config(alpha=0))
    tampered = {
        "turned": [row | {"label": 1 - row["label"]} for row in rows()],
        "constant": [row | {"label": 1} for row in rows()],
        "missing": [{"sentence": row["sentence"]} for row in rows()],
    }
    for name, values in tampered.items():
        data = relabelled(tmp_path / "data" / name, values)
        other = distill(config(alpha=0, data_dir=data, output_dir=tmp_path / name))
        assert weights(other) == weights(plain), name
    assert all(record["hard_loss"] is None for record in plain.history)


def test_alpha_acts_and_labels_matter_wherever_it_weighs_them(config: Any, tmp_path: Path) -> None:
    trained = {
        alpha: weights(distill(config(alpha=alpha, output_dir=tmp_path / str(alpha))))
        for alpha in (0, 0.1, 0.5, 1)
    }
    assert len(set(trained.values())) == 4
    turned = relabelled(tmp_path / "data", [row | {"label": 1 - row["label"]} for row in rows()])
    for alpha in (0.1, 1):
        other = distill(config(alpha=alpha, data_dir=turned, output_dir=tmp_path / f"turned-{alpha}"))
        assert weights(other) != trained[alpha]


def test_both_parts_are_logged_and_add_up(config: Any) -> None:
    reporter = Notes()
    run = distill(config(alpha=0.25, learning_rate=3e-2, epochs=10), reporter)
    for record in run.history:
        total = 0.25 * record["hard_loss"] + 0.75 * record["soft_loss"]
        assert record["loss"] == pytest.approx(total, rel=1e-4)
    assert run.history[-1]["soft_loss"] < 0.5 * run.history[0]["soft_loss"]
    formula = "loss = 0.25 * CE(student, labels) + 0.75 * MSE(student_logits, teacher_logits)"
    assert formula in reporter.notes and run.environment["loss"] == formula


def test_alpha_goes_from_the_teacher_to_the_labels(config: Any, tmp_path: Path) -> None:
    """The labels, which say the opposite of the teacher, win at the end, and only then."""
    turned = relabelled(tmp_path / "data", [row | {"label": 1 - row["label"]} for row in rows()])
    options = {"data_dir": turned, "epochs": 20, "learning_rate": 2e-2, "dropout": 0.0}
    run = distill(config(alpha=0, alpha_end=1, **options))
    hard, soft = ([record[f"{name}_loss"] for record in run.history] for name in ("hard", "soft"))
    nearest = soft.index(min(soft))
    assert soft[nearest] < 0.5 * soft[0] and hard[nearest] > 1.5 * hard[0]
    assert soft[-1] > 1.5 * soft[nearest] and hard[-1] < 0.7 * hard[nearest]
    assert run.environment["loss"].startswith("alpha from 0 to 1 over the steps, loss = alpha * ")
    assert (run.config.alphas, run.environment["teachers"][0]["share"]) == ((0, 1), 1)


def test_an_alpha_that_ends_where_it_began_is_one_that_stays(config: Any, tmp_path: Path) -> None:
    plain = distill(config(alpha=0, epochs=1))
    other = distill(config(alpha=0, alpha_end=0, epochs=1, output_dir=tmp_path / "other"))
    assert weights(plain) == weights(other) and plain.environment["loss"] == other.environment["loss"]


def test_the_kl_is_trained_with_and_said_with_its_temperature(config: Any, tmp_path: Path) -> None:
    default = distill(config(soft_loss="kl", learning_rate=3e-2, epochs=10))
    assert default.config.temperature == 2
    assert "4 * KL(softmax(teacher_logits / 2)" in default.environment["loss"]
    assert default.history[-1]["soft_loss"] < 0.5 * default.history[0]["soft_loss"]
    options = {"soft_loss": "kl", "epochs": 1}
    trained = [
        weights(distill(config(output_dir=tmp_path / str(t), temperature=t, **options))) for t in (1, 2)
    ]
    trained.append(weights(distill(config(output_dir=tmp_path / "mse", epochs=1))))
    assert len(set(trained)) == 3


def test_rows_without_a_label_do_not_thin_out_the_hard_loss(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divided by all rows of a batch, the labels would lose weight with every row of unlabelled text."""
    options = {"learning_rate": 1e-9, "epochs": 1, "alpha": 1, "dropout": 0.0}
    plain = distill(config(**options))
    half_labelled(monkeypatch)
    run = distill(config(output_dir=tmp_path / "half", **options))
    # An untrained student is about as wrong on one class as on the other.
    assert run.history[0]["hard_loss"] == pytest.approx(plain.history[0]["hard_loss"], rel=0.1)
    assert run.environment["loss"] == "loss = CE(student, labels) over labelled rows (50.0% of all)"


# --- calibration -------------------------------------------------------------------------------------------


@pytest.fixture
def noisy_dir(tmp_path: Path) -> Path:
    """SST-2's layout with enough validation rows for a temperature, not all of which can be answered."""
    folder = relabelled(tmp_path / "noisy", rows())
    write_jsonl(folder / "validation.jsonl", noisy_rows())
    return folder


CALIBRATED: dict[str, dict[str, Any]] = {
    "bilstm": {"alpha": 0, "epochs": 8, "learning_rate": 3e-2},
    "tinybert": {"student": "tinybert", "init": "teacher", "layers": 1, "epochs": 2},
}


@pytest.mark.parametrize("options", CALIBRATED.values(), ids=CALIBRATED.keys())
def test_the_saved_student_is_calibrated_and_answers_as_before(
    config: Any, tmp_path: Path, noisy_dir: Path, options: dict[str, Any]
) -> None:
    """Whatever loads it, here transformers alone, gets logits that are divided, and training knew nothing."""
    notes = Notes()
    run = distill(config(data_dir=noisy_dir, **options), notes)
    plain = distill(config(data_dir=noisy_dir, output_dir=tmp_path / "n", calibrate=False, **options))
    told = run.metrics["calibration"]
    texts = [row["sentence"] for row in noisy_rows()]
    labels = torch.tensor([row["label"] for row in noisy_rows()])
    ours, theirs = logits_of(run.model_path, texts), logits_of(plain.model_path, texts)
    assert abs(told["temperature"] - 1) > 0.1
    torch.testing.assert_close(ours * told["temperature"], theirs, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.argmax(dim=1), theirs.argmax(dim=1))
    for logits, suffix in ((ours, ""), (theirs, "_before")):
        ece = expected_calibration_error(logits, labels)
        assert told["ece" + suffix] == pytest.approx(ece, abs=1e-4)
        nll = torch.nn.functional.cross_entropy(logits, labels).item()
        assert told["loss" + suffix] == pytest.approx(nll, rel=1e-3)
    assert told["ece"] < told["ece_before"] and told["loss"] < told["loss_before"]
    assert run.metrics["validation"] == plain.metrics["validation"] | {"loss": told["loss"]}
    assert "calibration" not in plain.metrics
    assert any("calibration:" in note and "optimistic" in note for note in notes.notes)
    for one, other in zip(run.history, plain.history, strict=True):
        assert one["loss"] == other["loss"] and one["validation"] == other["validation"]


def test_a_calibrated_student_is_evaluated_in_bf16_as_one_that_is_not(
    config: Any, tmp_path: Path, noisy_dir: Path
) -> None:
    options = {"data_dir": noisy_dir, **CALIBRATED["bilstm"]}
    folders = [
        str(distill(config(output_dir=tmp_path / str(calibrate), calibrate=calibrate, **options)).path)
        for calibrate in (True, False)
    ]
    measured = evaluate(
        EvaluateConfig(
            models=folders, dataset="sst2", data_dir=noisy_dir, teacher=folders[1], precision="bf16"
        )
    )
    calibrated, plain = (score.figures for score in measured.scores)
    assert calibrated["agreement"].value == 1
    assert calibrated["accuracy"] == plain["accuracy"]
    losses = calibrated["loss"].value, plain["loss"].value
    assert losses[0] is not None and losses[1] is not None and losses[0] < losses[1]


def test_few_validation_rows_fit_no_temperature_and_that_is_said(
    config: Any, tmp_path: Path, noisy_dir: Path
) -> None:
    write_jsonl(noisy_dir / "validation.jsonl", noisy_rows()[::2])
    notes, options = Notes(), {"data_dir": noisy_dir, **CALIBRATED["bilstm"]}
    run = distill(config(**options), notes)
    plain = distill(config(output_dir=tmp_path / "n", calibrate=False, **options))
    assert run.metrics["calibration"] is None and weights(run) == weights(plain)
    assert any("52 labelled rows, which is under 100" in note for note in notes.notes)


def test_a_student_that_is_always_right_is_left_as_it_is(config: Any, tmp_path: Path) -> None:
    """The surer the better, its validation split would say, without end."""
    data = relabelled(tmp_path / "data", rows())
    write_jsonl(data / "validation.jsonl", rows(13))
    notes = Notes()
    run = distill(config(data_dir=data, alpha=1, epochs=12, learning_rate=3e-2), notes)
    assert run.metrics["validation"]["accuracy"] == 1 and run.metrics["calibration"] is None
    assert any("no temperature within [0.05, 20]" in note for note in notes.notes)


# --- the teacher -------------------------------------------------------------------------------------------


def watch_rows(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `distill` hands to training: the job and its rows."""
    given: list[Any] = []
    original = scheduling.fit_into_run

    def watched(job: Any, train_rows: Any, *arguments: Any) -> Any:
        given.append((job, train_rows))
        return original(job, train_rows, *arguments)

    monkeypatch.setattr(scheduling, "fit_into_run", watched)
    return given


def test_each_row_carries_its_own_teacher_logits_beside_the_students_own_ids(
    config: Any, teacher_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Student ids fed to the teacher, dropout left on or rows out of order: each only makes it worse."""
    given = watch_rows(monkeypatch)
    distill(config(epochs=1, vocabulary="words"))
    job, train_rows = given[0]
    texts = [row["sentence"] for row in rows()]
    own = logits_of(teacher_run.model_path, texts)
    torch.testing.assert_close(train_rows.teacher_logits, own, atol=1e-4, rtol=1e-4)
    distinct = torch.unique(own.round(decimals=3), dim=0)
    assert len(distinct) == 8 and torch.pdist(distinct).min() > 1e-2
    for row in range(len(texts)):
        batch = train_rows.batch([row])
        assert batch["input_ids"][0].tolist() == job.tokenizer(texts[row])["input_ids"]
        assert batch["labels"].tolist() == [rows()[row]["label"]]
    assert set(job.tokenizer.get_vocab()) != set(tiny_tokenizer().get_vocab())


def test_the_teacher_runs_once_however_many_epochs_there_are(
    config: Any, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    given, reporter = watch_teacher(monkeypatch), Notes()
    distill(config(epochs=3), reporter)
    assert given == [8], "16 rows, of which 8 are repeats"
    assert any("distinct rows: 0 cached, 8 computed" in note for note in reporter.notes)


def test_the_run_names_its_teacher_by_fingerprint(config: Any, teacher_run: Run) -> None:
    run = distill(config(epochs=1))
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_run.model_path)
    assert run.environment["teachers"] == [
        {"name": str(teacher_run.path), "fingerprint": fingerprint(teacher), "share": 1.0}
    ]


@pytest.fixture(scope="module")
def turned_teacher(teacher_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same teacher with its two classes in the other order."""
    folder = tmp_path_factory.mktemp("turned")
    model = AutoModelForSequenceClassification.from_pretrained(teacher_run.model_path)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    model.config.id2label = {0: "positive", 1: "negative"}
    model.config.label2id = {"positive": 0, "negative": 1}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_run.model_path).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"student": "tinybert", "init": "teacher", "layers": 1, "learning_rate": 1e-4}],
    ids=["bilstm", "tinybert"],
)
def test_a_teacher_with_its_labels_in_another_order_makes_the_same_student(
    config: Any, tmp_path: Path, turned_teacher: Path, options: dict[str, Any]
) -> None:
    """Matched by position, good and bad change places, and the student learns the opposite."""
    texts = [*GOOD, *BAD]
    plain = distill(config(alpha=0.5, **options))
    turned = distill(
        config(alpha=0.5, teacher=str(turned_teacher), output_dir=tmp_path / "turned", **options)
    )
    expected = logits_of(plain.model_path, texts)
    torch.testing.assert_close(logits_of(turned.model_path, texts), expected, atol=1e-3, rtol=1e-3)
    names = AutoModelForSequenceClassification.from_pretrained(turned.model_path).config.id2label
    assert names == {0: "negative", 1: "positive"}
    assert turned.history[0]["soft_loss"] == pytest.approx(plain.history[0]["soft_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("names", "word"), [(("spam", "ham"), "matched by name"), (("a", "b", "c"), "3 classes")]
)
def test_a_teacher_of_other_classes_is_refused(
    config: Any, make_bert: Any, tmp_path: Path, names: tuple[str, ...], word: str
) -> None:
    with pytest.raises(UserError, match=word):
        distill(config(teacher=str(make_bert(names=names))))
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_class_names_is_matched_by_id_and_that_is_said(config: Any, make_bert: Any) -> None:
    reporter = Notes()
    distill(config(teacher=str(make_bert(names=("LABEL_0", "LABEL_1"))), epochs=1), reporter)
    (note,) = (note for note in reporter.notes if "ids are taken to be the same" in note)
    assert note.endswith(": LABEL_0 = negative, LABEL_1 = positive")


@pytest.mark.parametrize("teacher_names", [("LABEL_0", "LABEL_1"), ("good", "bad"), ("0", "1")])
def test_at_alpha_0_a_teacher_is_matched_as_at_any_other_alpha(
    config: Any, make_bert: Any, tmp_path: Path, teacher_names: tuple[str, ...]
) -> None:
    """Its names stood for the data's at alpha 0 alone: data with names of its own were refused."""
    for split, copies in (("train", 2), ("validation", 1)):
        values = [row | {"label": ("bad", "good")[row["label"]]} for row in rows(copies)]
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", values)
    options = {"dataset": None, "data_dir": tmp_path / "data", "text_column": "sentence", "epochs": 1}
    options["teacher"] = str(make_bert(names=teacher_names))
    notes, names = {}, {}
    for alpha in (0, 0.5):
        reporter = Notes()
        run = distill(config(**options, alpha=alpha, output_dir=tmp_path / str(alpha)), reporter)
        notes[alpha] = [note for note in reporter.notes if "taken to be the same" in note]
        names[alpha] = AutoModelForSequenceClassification.from_pretrained(run.model_path).config.id2label
    assert names[0] == names[0.5] == {0: "bad", 1: "good"}
    assert notes[0] == notes[0.5] and bool(notes[0]) == ("good" not in teacher_names)


def test_the_test_split_is_never_opened(config: Any, tmp_path: Path) -> None:
    data = relabelled(tmp_path / "data", rows())
    (data / "test.jsonl").write_bytes(b"\x00 this is no data at all")
    assert distill(config(data_dir=data, epochs=1)).metrics["best_epoch"] == 1


# --- every student -----------------------------------------------------------------------------------------

STUDENTS: dict[str, dict[str, Any]] = {
    "bilstm, words": {"layers": 2},
    "bilstm, the teacher's word-pieces": {"vocabulary": "teacher"},
    "bilstm, fewer dimensions of the word-pieces": {"vocabulary": "teacher", "embedding_size": 8},
    "bilstm, random word-pieces": {"vocabulary": "teacher", "init": "random", "embedding_size": 6},
    "tinybert, layers of the teacher": {"student": "tinybert", "init": "teacher", "layers": 1},
    "tinybert, random": {"student": "tinybert", "init": "random", "layers": 1, "hidden_size": 12},
    "distilbert, layers of the teacher": {"student": "distilbert", "init": "teacher", "layers": 2},
    "distilbert, random": {"student": "distilbert", "init": "random", "layers": 1, "hidden_size": 12},
}


@pytest.mark.parametrize("options", STUDENTS.values(), ids=STUDENTS.keys())
def test_every_student_learns_and_reloads_to_what_the_run_says(config: Any, options: dict[str, Any]) -> None:
    options = {"epochs": 6} | options
    run = distill(config(**options))
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    logits = logits_of(run.model_path, [row["sentence"] for row in rows(1)])
    labels = torch.tensor([row["label"] for row in rows(1)])
    validation = run.metrics["validation"]
    assert validation["accuracy"] == (logits.argmax(dim=1) == labels).float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert validation["loss"] == pytest.approx(loss, rel=1e-3)
    model = AutoModelForSequenceClassification.from_pretrained(run.model_path)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert run.metrics["parameters"] == sum(p.numel() for p in model.parameters())
    assert run.environment["student"]["class"] == type(model).__name__
    assert run.config == resolve(config(**options))


def test_any_folder_may_be_the_student(config: Any, make_bert: Any) -> None:
    folder = make_bert(layers=1, seed=3)
    run = distill(config(student=str(folder), epochs=1))
    given, own = load_file(folder / "model.safetensors"), load_file(run.model_path / "model.safetensors")
    assert given.keys() == own.keys()
    assert not torch.equal(given["classifier.weight"], own["classifier.weight"])
    assert run.environment["student"]["origin"] == f"pretrained {folder}"


def test_the_word_vocabulary_never_sees_the_validation_split(config: Any, tmp_path: Path) -> None:
    data = relabelled(tmp_path / "data", rows())
    write_jsonl(data / "validation.jsonl", [*rows(1), {"sentence": "unheard of", "label": 0}])
    run = distill(config(data_dir=data, epochs=1))
    vocabulary = AutoTokenizer.from_pretrained(run.model_path).get_vocab()
    assert "moving" in vocabulary and "unheard" not in vocabulary


# --- pairs and classes of one's own ------------------------------------------------------------------------


def test_pairs_are_learned_by_a_siamese_bilstm_from_end_to_end(
    config: Any, mrpc_dir: Path, make_bert: Any, tmp_path: Path
) -> None:
    teacher = make_bert(names=("not_equivalent", "equivalent"))
    options = {"dataset": "mrpc", "data_dir": mrpc_dir, "teacher": str(teacher), "alpha": 0.9}
    run = distill(config(**options, epochs=15, learning_rate=2e-2))
    assert run.metrics["metric"] == "f1" and run.metrics["validation"]["f1"] == 1.0
    assert run.history[-1]["hard_loss"] < 0.5 * run.history[0]["hard_loss"]
    model = AutoModelForSequenceClassification.from_pretrained(run.model_path)
    assert model.config.siamese and model.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    pairs = pair_rows(1)
    logits = logits_of(
        run.model_path, [row["sentence1"] for row in pairs], [row["sentence2"] for row in pairs]
    )
    assert logits.argmax(dim=1).tolist() == [row["label"] for row in pairs]


def test_the_teacher_of_pairs_reads_both_texts(
    config: Any, mrpc_dir: Path, make_bert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = make_bert(names=("not_equivalent", "equivalent"))
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    lively(model).save_pretrained(teacher)
    given = watch_rows(monkeypatch)
    distill(config(dataset="mrpc", data_dir=mrpc_dir, teacher=str(teacher), epochs=1))
    pairs = pair_rows()
    own = logits_of(teacher, [row["sentence1"] for row in pairs], [row["sentence2"] for row in pairs])
    torch.testing.assert_close(given[0][1].teacher_logits, own, atol=1e-4, rtol=1e-4)


def test_classes_of_ones_own_keep_their_names(config: Any, make_bert: Any, tmp_path: Path) -> None:
    texts = {"good": "great fun", "bad": "no fun", "so-so": "a film"}
    values = [{"words": text, "kind": label} for label, text in texts.items() for _ in range(4)]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "own" / f"{split}.jsonl", values)
    teacher = make_bert(names=("so-so", "good", "bad"))
    run = distill(
        config(
            dataset=None,
            data_dir=tmp_path / "own",
            text_column="words",
            label_column="kind",
            teacher=str(teacher),
            alpha=0.9,
            epochs=10,
            learning_rate=3e-2,
        )
    )
    model = AutoModelForSequenceClassification.from_pretrained(run.model_path)
    assert model.config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    assert run.metrics["validation"]["accuracy"] == 1.0 and "f1" not in run.metrics["validation"]


# --- repeatable, whole or not at all -----------------------------------------------------------------------


def test_the_saved_config_repeats_the_run_to_the_bit(config: Any, tmp_path: Path) -> None:
    first = distill(config())
    values = read_values(first.path / "config.yaml") | {"output_dir": tmp_path / "again"}
    again = distill(make_config(DistillConfig, values))
    assert weights(again) == weights(first)
    assert again.metrics["validation"] == first.metrics["validation"]
    other = distill(config(output_dir=tmp_path / "other", seed=1))
    assert weights(other) != weights(first)


@pytest.mark.parametrize("word", ["student:", "teacher:", "loss = ", "epoch 2/2"])
def test_an_interrupted_run_leaves_nothing_behind(config: Any, tmp_path: Path, word: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(config(output_dir=tmp_path / "new" / "run"), Interrupt(word))
    assert list(tmp_path.iterdir()) == []


# --- without us --------------------------------------------------------------------------------------------

PIPELINES = """
import json, sys
from transformers import pipeline

folders = json.loads(sys.argv[1])
text, pair = sys.argv[2:]

def answer(folder, question):
    answers = pipeline("text-classification", model=folder, top_k=None)(question)
    return {one["label"]: one["score"] for one in (answers[0] if isinstance(answers[0], list) else answers)}

answers = {name: answer(folders[name], text) for name in ("tinybert", "distilbert")}
assert "distilkit" not in sys.modules, "transformers came upon distilkit"
import distilkit.models
for name in ("words", "pieces"):
    answers[name] = answer(folders[name], text)
answers["pairs"] = answer(folders["pairs"], {"text": text, "text_pair": pair})
print(json.dumps(answers))
"""


def test_students_load_in_a_pipeline_and_berts_without_any_distilkit(
    config: Any, mrpc_dir: Path, tmp_path: Path
) -> None:
    """A token type that DistilBERT does not take, or a tokenizer reloaded as another, shows only here."""
    runs = {
        "tinybert": {"student": "tinybert", "init": "teacher", "layers": 1},
        "distilbert": {"student": "distilbert", "init": "teacher", "layers": 1},
        "words": {},
        "pieces": {"vocabulary": "teacher"},
        "pairs": {"dataset": "mrpc", "data_dir": mrpc_dir, "alpha": 1, "teacher": None},
    }
    folders = {
        name: str(distill(config(output_dir=tmp_path / name, epochs=1, **options)).model_path)
        for name, options in runs.items()
    }
    text, pair = "a GREAT film", "a boring story"
    # From a folder outside the repository, so that distilkit is not picked up from where we stand.
    done = subprocess.run(
        [sys.executable, "-c", PIPELINES, json.dumps(folders), text, pair],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for name, folder in folders.items():
        names = ("not_equivalent", "equivalent") if name == "pairs" else ("negative", "positive")
        pairs = [pair] if name == "pairs" else None
        expected = logits_of(folder, [text], pairs).softmax(dim=1)[0].tolist()
        assert answers[name] == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-5), name


# --- one after the other -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bilstm", "tinybert"])
def test_an_earlier_student_can_teach(kind: str, config: Any, tmp_path: Path) -> None:
    """A teacher assistant (Mirzadeh et al. 2020): its own logits are what the next student learns."""
    options: dict[str, Any] = {"student": kind}
    if kind == "tinybert":
        options |= {"init": "teacher", "layers": 1}
    assistant = distill(config(alpha=0, **options, output_dir=tmp_path / "assistant"))
    last = distill(config(alpha=0, teacher=str(assistant.path), output_dir=tmp_path / "last"))
    (taught_by,) = last.environment["teachers"]
    assert taught_by["name"] == str(assistant.path)
    assert weights(last) != weights(distill(config(alpha=0, output_dir=tmp_path / "direct")))


@pytest.mark.parametrize("kind", ["bilstm", "tinybert"])
def test_an_earlier_student_can_be_distilled_further(kind: str, config: Any, tmp_path: Path) -> None:
    """Fine-tuned on labels first, then on the teacher: it must go on from its weights, not start again."""
    options: dict[str, Any] = {"student": kind}
    if kind == "tinybert":
        options |= {"init": "teacher", "layers": 1}
    first = distill(config(alpha=1, **options, output_dir=tmp_path / "first", calibrate=False))
    still = {"alpha": 0, "learning_rate": 1e-12, "epochs": 1, "calibrate": False}
    then = distill(config(student=str(first.path), **still, output_dir=tmp_path / "then"))
    before = load_file(first.model_path / "model.safetensors")
    after = load_file(then.model_path / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    moved = distill(config(student=str(first.path), alpha=0, output_dir=tmp_path / "moved"))
    assert weights(moved) != weights(first)
