"""Distilling on text without labels: the teacher speaks for all of it, labels for their own rows alone."""

from pathlib import Path
from typing import Any

import pytest
from conftest import BAD, GOOD, QUICK, SMALL, Notes, pair_rows, rows, watch_teacher, weights, write_jsonl

from distilkit import DistillConfig, UserError, distill
from distilkit.runs.run import Run
from distilkit.workflows.distillation.workflow import distill_many

MORE = [f"{start} {text}" for start in ("well ,", "oh ,") for text in (*GOOD, *BAD)]


@pytest.fixture
def config(sst2_dir: Path, teacher_run: Run, tmp_path: Path) -> Any:
    """`config(name, **options)`: a quick student that learns from 16 rows without labels beside 16 with."""
    file = tmp_path / "more.txt"
    file.write_text("\n".join(MORE), encoding="utf-8")

    def make(name: str = "run", **options: Any) -> DistillConfig:
        known: dict[str, Any] = (
            QUICK | SMALL | {"dataset": "sst2", "data_dir": sst2_dir, "learning_rate": 1e-2}
        )
        known |= {"teacher": str(teacher_run.path), "output_dir": tmp_path / name, "transfer": str(file)}
        return DistillConfig(**(known | options))

    return make


def test_transfer_text_is_trained_on(config: Any) -> None:
    """16 training rows and 16 of text: an epoch reads all of them, in steps of 4."""
    run = distill(config(alpha=0, batch_size=4))
    assert [record["step"] for record in run.history] == [8 * record["epoch"] for record in run.history]
    assert run.environment["dataset"]["rows"] == {"train": 16, "validation": 8, "transfer": 16}
    assert weights(run) != weights(distill(config("without", alpha=0, batch_size=4, transfer=None)))


def test_at_alpha_0_shuffled_labels_change_nothing_with_transfer_text_too(
    config: Any, tmp_path: Path
) -> None:
    plain = distill(config(alpha=0))
    write_jsonl(tmp_path / "turned" / "train.jsonl", [row | {"label": 1 - row["label"]} for row in rows()])
    write_jsonl(tmp_path / "turned" / "validation.jsonl", rows(1))
    assert weights(distill(config("turned-run", alpha=0, data_dir=tmp_path / "turned"))) == weights(plain)


def test_labels_of_a_transfer_file_are_not_read(config: Any, tmp_path: Path) -> None:
    labelled = write_jsonl(tmp_path / "more.jsonl", [{"sentence": text, "label": 1} for text in MORE])
    run = distill(config("labelled", alpha=0.5, transfer=str(labelled)))
    assert weights(run) == weights(distill(config(alpha=0.5)))


def test_the_hard_loss_is_the_mean_over_labelled_rows(config: Any) -> None:
    """With a rate of nearly 0 the student stays what it was, so both runs must report the same hard loss."""
    still = {"alpha": 0.5, "learning_rate": 1e-12, "dropout": 0.0}
    vocabulary = {"vocabulary": "teacher", "init": "random"}  # the same student whatever text there is
    means = [
        distill(config(name, **still, **vocabulary, **options)).history[0]["hard_loss"]
        for name, options in {
            "all": {},
            "without": {"transfer": None},
            "ratio": {"transfer_ratio": 0.5},
        }.items()
    ]
    assert means[0] == pytest.approx(means[1], rel=0.02) and means[2] == pytest.approx(means[1], rel=0.02)


def test_the_ratio_sets_the_length_of_an_epoch(config: Any) -> None:
    run = distill(config(alpha=0.5, transfer_ratio=0.5, batch_size=4))
    assert run.history[0]["step"] == (16 + 8) / 4
    assert "over labelled rows (66.7% of all)" in run.environment["loss"]
    few = distill(config("few", alpha=0.5, transfer_ratio=0.01, batch_size=1))
    assert few.history[0]["step"] == 16 + 1, "a ratio that rounds to no row reads one"


def test_the_teacher_answers_once_for_text_too(
    config: Any, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    given, reporter = watch_teacher(monkeypatch), Notes()
    distill(config(alpha=0, epochs=2), reporter)
    assert given == [8, 16]
    assert any("distinct transfer rows: 0 cached, 16 computed" in note for note in reporter.notes)
    given.clear()
    distill(config("again", alpha=0.5))
    assert given == [8, 8], "eight stored rows of either are compared with the live teacher"


@pytest.mark.parametrize("student", ["bilstm", "tinybert"])
def test_no_labelled_data_at_all(student: str, config: Any, teacher_run: Run) -> None:
    """The kept epoch is the one that agrees most with the teacher, on text the student was not trained on."""
    options: dict[str, Any] = {"dataset": None, "data_dir": None, "alpha": 0, "student": student}
    if student == "tinybert":
        options |= {"hidden_size": None, "embedding_size": None, "init": "teacher", "layers": 1}
    notes = Notes()
    run = distill(config(**options, epochs=2), notes)
    assert any(note.startswith("calibration: there are no labels") for note in notes.notes)
    assert run.metrics["metric"] == "agreement" and set(run.metrics["validation"]) == {"agreement", "loss"}
    assert run.environment["dataset"]["rows"] == {"train": 15, "validation": 1}
    assert 0 <= run.metrics["validation"]["agreement"] <= 1


def test_students_of_several_alphas_and_seeds_share_the_text(config: Any) -> None:
    configs = [config(f"{alpha}-{seed}", alpha=alpha, seed=seed) for alpha in (0, 0.5) for seed in (1, 2)]
    together = distill_many(configs)
    alone = distill(config("alone", alpha=0.5, seed=2))
    assert weights(together[3]) == weights(alone)
    with pytest.raises(UserError, match="--transfer"):
        distill_many([configs[0], config("other", transfer=None)])


def test_pairs_have_transfer_pairs(config: Any, mrpc_dir: Path, tmp_path: Path) -> None:
    more = [row | {"sentence2": "oh , " + row["sentence2"]} for row in pair_rows(1)]
    file = write_jsonl(tmp_path / "pairs.jsonl", more)
    columns = {"text_column": "sentence1", "text_pair_column": "sentence2"}
    run = distill(config(dataset=None, data_dir=mrpc_dir, **columns, alpha=0, transfer=str(file)))
    assert run.environment["dataset"]["rows"] == {"train": 16, "validation": 8, "transfer": 8}


def test_a_student_that_is_its_teacher_agrees_with_it(config: Any, teacher_run: Run) -> None:
    """Without labels nothing else tells a good epoch from a bad one."""
    itself = {"student": str(teacher_run.path), "hidden_size": None, "embedding_size": None}
    still = {"alpha": 0, "learning_rate": 1e-12, "epochs": 1}
    run = distill(config(**itself, **still, dataset=None, data_dir=None))
    assert run.metrics["validation"]["agreement"] == 1.0


def test_a_students_words_are_those_of_the_text_too(config: Any) -> None:
    """`oh` is in no training row; a student without it would read the text as unknown words."""

    def words(*name: str, **options: Any) -> str:
        run = distill(config(*name, alpha=0, vocabulary="words", **options))
        return (run.model_path / "tokenizer.json").read_text(encoding="utf-8")

    assert '"oh"' in words()
    assert '"oh"' not in words("without", transfer=None)


def test_students_of_different_epochs_share_text_of_a_ratio_as_if_alone(config: Any) -> None:
    options = {"alpha": 0, "transfer_ratio": 0.25}
    together = distill_many([config("short", epochs=1, **options), config("long", epochs=3, **options)])
    assert weights(together[0]) == weights(distill(config("alone", epochs=1, **options)))
    assert together[1].environment["dataset"]["rows"]["transfer"] == 12
