"""`--recipe auto`: what it chooses, that it says why, and that nothing which was given is changed."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import QUICK, SMALL, Notes, rows, weights, write_jsonl
from filelock import FileLock

from distilkit import DistillConfig, DoctorConfig, UserError, distill, doctor
from distilkit.config.fields import make_config, read_values
from distilkit.runs.run import Run
from distilkit.workflows.augmentation import workflow as augmentation
from distilkit.workflows.distillation.recipe import AUGMENTED, ENCODER_WORD_BUDGET, MIN_EPOCHS, Facts, choose
from distilkit.workflows.distillation.workflow import distill_many

FACTS = Facts(
    rows=67_349,
    words_per_row=9.4,
    unsupervised_rows=0,
    device="cpu",
    teacher_type="bert",
    teacher_layers=12,
    can_augment=True,
)


def chosen(facts: Facts = FACTS, **options: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"dataset": "sst2", "teacher": "t", "output_dir": Path("o"), "recipe": "auto"}
    return {choice.name: choice.value for choice in choose(DistillConfig(**(known | options)), facts)}


def test_a_bilstm_gets_new_texts_and_the_teachers_word_pieces() -> None:
    assert chosen() == {
        "vocabulary": "teacher",
        "transfer": (AUGMENTED,),
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 2e-3,
    }


def test_real_text_without_labels_comes_before_made_up_text() -> None:
    assert chosen(replace(FACTS, unsupervised_rows=50_000))["transfer"] == ("unsupervised",)


def test_without_the_tagger_there_is_no_new_text_and_more_epochs_instead() -> None:
    without = chosen(replace(FACTS, can_augment=False))
    assert "transfer" not in without and without["epochs"] > chosen()["epochs"]


def test_few_rows_are_read_more_often_and_a_gpu_reads_more() -> None:
    few = chosen(replace(FACTS, rows=1_000))
    assert few["epochs"] == 30 and "batch_size" not in few
    assert not {"batch_size", "learning_rate"} & set(chosen(batch_size=64)), "the rate goes with the batch"
    gpu = chosen(replace(FACTS, device="cuda"))
    assert gpu["epochs"] > chosen()["epochs"]


def test_long_texts_are_read_less_often() -> None:
    """Else a recipe that takes minutes for phrases takes hours for pairs and reviews."""
    pairs = replace(FACTS, rows=3_668, words_per_row=44.0)
    assert MIN_EPOCHS < chosen(pairs)["epochs"] < chosen(replace(pairs, words_per_row=9.4))["epochs"]


def test_a_transformer_reads_part_of_the_new_texts_where_all_would_take_hours() -> None:
    phrases = chosen(student="tinybert")
    assert phrases["transfer"] == (AUGMENTED,) and phrases["epochs"] == MIN_EPOCHS
    read = FACTS.rows * (1 + phrases["transfer_ratio"]) * phrases["epochs"] * FACTS.words_per_row
    assert read == pytest.approx(ENCODER_WORD_BUDGET["cpu"], rel=0.1)
    few = chosen(replace(FACTS, rows=500), student="tinybert")
    assert "transfer_ratio" not in few and few["transfer"] == (AUGMENTED,)
    reviews = chosen(replace(FACTS, rows=25_000, words_per_row=200.0), student="tinybert")
    assert "transfer" not in reviews and reviews["epochs"] == MIN_EPOCHS


@pytest.mark.parametrize(
    ("options", "facts", "init"),
    [
        ({"student": "tinybert"}, {}, "teacher"),
        ({"student": "distilbert"}, {}, "teacher"),
        (
            {"student": "distilbert", "layers": 6},
            {"teacher_type": "distilbert", "teacher_layers": 6},
            "teacher",
        ),
        ({"student": "tinybert", "layers": 6}, {"teacher_layers": 4}, None),
        ({"student": "tinybert"}, {"teacher_type": "roberta"}, None),
        ({"student": "tinybert"}, {"teacher_type": "bilstm", "teacher_layers": 1}, None),
        ({"student": "some/encoder"}, {}, None),
        ({"student": "tinybert", "init": "random"}, {}, None),
    ],
)
def test_layers_of_the_teacher_where_they_fit(
    options: dict[str, Any], facts: dict[str, Any], init: str | None
) -> None:
    assert chosen(replace(FACTS, **facts), **options).get("init") == init


def test_random_layers_are_matched_first() -> None:
    of_random = chosen(student="tinybert", init="random")
    assert of_random["method"] == "tinybert" and of_random["layer_epochs"] >= 1
    assert "method" not in chosen(student="tinybert")
    assert "method" not in chosen(student="tinybert", init="random", method="logits")


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"method": "pkd"}, {}),
        ({"method": "logits"}, {}),
        ({"teacher": ("t", "u")}, {}),
        ({}, {"teacher_type": "bilstm", "teacher_heads": None}),
        ({}, {"teacher_heads": 8}),
        ({"student": "some/roberta"}, {}),  # it keeps a tokenizer of its own
    ],
)
def test_layers_that_cannot_be_matched_or_need_not_are_left_to_the_logits(
    options: dict[str, Any], facts: dict[str, Any]
) -> None:
    """The recipe alone would otherwise make a command that is refused, for an option nobody gave."""
    choice = chosen(replace(FACTS, **facts), **({"student": "tinybert", "init": "random"} | options))
    assert not {"method", "layer_epochs"} & set(choice)


def test_a_vocabulary_of_a_size_is_one_of_words() -> None:
    assert "vocabulary" not in chosen(vocabulary_size=5_000)


def test_text_that_is_given_counts_among_the_rows_of_an_epoch() -> None:
    facts = replace(FACTS, transfer_rows=900_000)
    assert chosen(facts, transfer="a.txt")["epochs"] == 3
    assert chosen(facts, transfer="a.txt")["batch_size"] == 128
    assert chosen(facts, transfer="a.txt", transfer_ratio=0.1)["epochs"] == 30


def test_a_ratio_that_is_given_shortens_the_epochs_of_text_that_is_made() -> None:
    assert chosen(transfer_ratio=1.0)["epochs"] > chosen()["epochs"]
    assert "transfer_ratio" not in chosen(student="tinybert", transfer_ratio=1.0)


def test_what_is_given_stands() -> None:
    given: dict[str, Any] = {"transfer": ("a.txt",), "epochs": 2, "batch_size": 8, "learning_rate": 1e-4}
    assert chosen(**given, vocabulary="words") == {}


def test_alpha_is_0_unless_it_is_given() -> None:
    known: dict[str, Any] = {"dataset": "sst2", "teacher": "t", "output_dir": Path("o")}
    assert DistillConfig(**known, recipe="auto").alpha == 0
    assert DistillConfig(**known, recipe="auto", alpha=0.3).alpha == 0.3
    assert DistillConfig(**known).alpha == 0.5


@pytest.fixture
def config(teacher_run: Run, tmp_path: Path) -> Any:
    """`config(name, **options)`: a quick student by the recipe, of 16 rows that differ."""
    values = [row | {"sentence": f"{row['sentence']} {number}"} for number, row in enumerate(rows())]
    write_jsonl(tmp_path / "data" / "train.jsonl", values)
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows(1))

    def make(name: str = "run", **options: Any) -> DistillConfig:
        small: dict[str, Any] = QUICK | SMALL | {"embedding_size": None, "recipe": "auto"}
        known = small | {"dataset": "sst2", "data_dir": tmp_path / "data", "teacher": str(teacher_run.path)}
        return DistillConfig(**(known | {"output_dir": tmp_path / "runs" / name} | options))

    return make


def test_a_run_by_the_recipe_makes_its_text_once_and_can_be_repeated(config: Any, tmp_path: Path) -> None:
    """The saved config has the choices written out, and so depends on no later version's."""
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    notes = Notes()
    run = distill(config(), notes)
    told = [note for note in notes.notes if note.startswith("recipe: ")]
    assert any(note.startswith("recipe: --vocabulary teacher (") for note in told)
    assert any(note.startswith("recipe: --transfer augmented (") for note in told)
    (file,) = (tmp_path / "runs").glob("sst2-augmented-*.parquet")
    written = file.read_bytes()
    saved = read_values(run.path / "config.yaml")
    assert saved["recipe"] is None and saved["transfer"] == [str(file)] and saved["alpha"] == 0
    assert run.environment["dataset"]["rows"]["transfer"] > 16
    again = make_config(DistillConfig, saved | {"output_dir": str(tmp_path / "runs" / "again")})
    assert weights(distill(again)) == weights(run)
    distill(config("other", seed=7))
    assert [*(tmp_path / "runs").glob("*.parquet")] == [file] and file.read_bytes() == written


def test_other_texts_get_another_file(config: Any, tmp_path: Path) -> None:
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    distill(config())
    write_jsonl(tmp_path / "data" / "train.jsonl", rows())
    distill(config("other"))
    assert len([*(tmp_path / "runs").glob("sst2-augmented-*.parquet")]) == 2


def test_the_unsupervised_split_is_used_where_there_is_one(config: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "unsupervised.jsonl", [{"sentence": f"text {n}"} for n in range(9)])
    run = distill(config())
    assert run.environment["dataset"]["rows"]["transfer"] == 9


def test_the_rows_of_text_that_is_given_are_counted(config: Any, tmp_path: Path) -> None:
    notes, file = Notes(), tmp_path / "more.txt"
    file.write_text("".join(f"line {number}\n" for number in range(20)), encoding="utf-8")
    alone: dict[str, Any] = {"dataset": None, "data_dir": None}
    distill(config(**alone, transfer=str(file), epochs=None, patience=1), notes)
    assert "recipe: --epochs 30 (some 20 rows an epoch)" in notes.notes


def test_a_folder_that_is_taken_is_told_before_text_is_made(config: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "mine.txt").touch()
    with pytest.raises(UserError, match=r"--output-dir .* is not empty"):
        distill(config())
    assert [*(tmp_path / "runs").iterdir()] == [tmp_path / "runs" / "run"]


def test_students_in_different_folders_share_the_text_that_is_made(config: Any, tmp_path: Path) -> None:
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    distill_many([config("one/run", seed=1), config("two/run", seed=2)])
    (file,) = tmp_path.rglob("*.parquet")
    saved = [read_values(tmp_path / "runs" / name / "run" / "config.yaml") for name in ("one", "two")]
    assert [values["transfer"] for values in saved] == [[str(file)]] * 2


def test_text_that_another_process_is_making_is_waited_for(config: Any, tmp_path: Path) -> None:
    """Seeds that are started side by side all need it: one makes it, and none of them fails."""
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    distill(config("first"))
    (file,) = (tmp_path / "runs").glob("*.parquet")
    made = file.read_bytes()
    file.unlink()
    parts = file.with_name(file.name + ".parts")
    parts.mkdir()
    lock = FileLock(parts / ".lock")
    lock.acquire()

    class Other(Notes):
        """The other process: it is done by the time that it is waited for."""

        def note(self, message: str) -> None:
            super().note(message)
            if "another process is making" in message:
                lock.release()

    notes = Other()
    distill(config("second", seed=2), notes)
    assert sum("another process is making" in note for note in notes.notes) == 1
    assert file.read_bytes() == made and not parts.exists()


def test_new_text_is_masked_as_the_teacher_knows_it(config: Any, teacher_run: Run, tmp_path: Path) -> None:
    """To another model `[MASK]` is a word in brackets."""
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    shutil.copytree(teacher_run.model_path, other := tmp_path / "other")
    for file in other.glob("*.json"):
        file.write_text(file.read_text(encoding="utf-8").replace("[MASK]", "<mask>"), encoding="utf-8")
    distill(config(teacher=str(other)))
    (file,) = (tmp_path / "runs").glob("*.parquet")
    texts = pq.read_table(file)["sentence"].to_pylist()
    assert any("<mask>" in text for text in texts) and not any("[MASK]" in text for text in texts)


def test_students_for_which_the_recipe_chooses_other_text_are_not_made_together(config: Any) -> None:
    """Labels alone need no text: trained beside a student of the teacher it would be another student."""
    with pytest.raises(UserError, match="students that are distilled together share --transfer"):
        distill_many([config("labels", alpha=1), config("teacher", alpha=0)])


def test_text_that_another_process_made_meanwhile_is_not_made_again(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was done after this one had looked for the file, and before this one had the lock."""
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    distill(config("first"))
    (file,) = (tmp_path / "runs").glob("*.parquet")
    made = file.read_bytes()
    file.unlink()
    make_generator = augmentation.tang_generator

    def slow(*arguments: Any) -> Any:
        generator = make_generator(*arguments)
        file.write_bytes(made)  # by the other process
        return generator

    monkeypatch.setattr(augmentation, "tang_generator", slow)
    monkeypatch.setattr(augmentation, "join_blocks", lambda *_: pytest.fail("it was made again"))
    run = distill(config("second", seed=2))
    assert read_values(run.path / "config.yaml")["transfer"] == [str(file)]
    assert file.read_bytes() == made and [*(tmp_path / "runs").glob("*.parts")] == []


@pytest.mark.parametrize("text", [False, True])
def test_a_ratio_of_text_that_has_yet_to_be_made_does_not_stop_doctor(
    text: bool, config: Any, tmp_path: Path
) -> None:
    """It looks at what is there: without the text that the recipe makes, where one is."""
    if text:
        write_jsonl(
            tmp_path / "data" / "train.jsonl", [{"sentence": "", "label": 1}, *rows()]
        )  # none is read
    given = vars(config(transfer_ratio=2.0)) | {"output_dir": Path()}
    options = {name: value for name, value in given.items() if not name.startswith("_")}
    found = doctor(DoctorConfig(**options)).document()
    assert ("recipe" in found["skipped"]) == text
