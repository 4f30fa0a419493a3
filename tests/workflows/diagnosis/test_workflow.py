"""`doctor`: planted faults are found one by one, nothing else beside them, and health is left alone."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    QUICK,
    Call,
    Notes,
    lively,
    real_data,
    tiny_bert,
    tiny_tokenizer,
    weights,
    write_jsonl,
)

from distilkit import (
    DistilkitWarning,
    DistillConfig,
    DoctorConfig,
    TrainConfig,
    UserError,
    distill,
    doctor,
    train,
)
from distilkit.cli.tables import diagnosis_text
from distilkit.config import resolve
from distilkit.data.checks import AnswerSkill
from distilkit.data.sources import load_for_training
from distilkit.errors import FaultFound
from distilkit.hardware import memory
from distilkit.workflows.diagnosis.examination import Diagnosis
from distilkit.workflows.diagnosis.workflow import check_findings
from distilkit.workflows.findings import cost, early, models

GOOD, BAD = ("great", "wonderful", "moving", "well"), ("dull", "awful", "boring", "badly")
OTHER = ("a", "film", "truly", "and", "fun", "story", "told", ",")
Rows = list[dict[str, Any]]


def sentences(count: int, seed: int) -> Rows:
    """Different sentences of 10 words, every other one good."""
    draw = random.Random(seed)
    made: dict[str, int] = {}
    while len(made) < count:
        label = len(made) % 2
        words = [draw.choice(OTHER) for _ in range(8)] + draw.sample(GOOD if label else BAD, 2)
        draw.shuffle(words)
        made.setdefault(" ".join(words), label)
    return [{"sentence": text, "label": label} for text, label in made.items()]


EVERYTHING = sentences(500, 0)
SPLITS = {"train": EVERYTHING[:300], "validation": EVERYTHING[300:420], "test": EVERYTHING[420:]}


def write(folder: Path, **splits: Rows | None) -> Path:
    """SST-2's layout, with other rows for the splits that are given, and no file for one that is `None`."""
    for split, values in (SPLITS | splits).items():
        if values is not None:
            write_jsonl(folder / f"{split}.jsonl", values)
    return folder


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data, and a teacher that has learned it."""
    folder = tmp_path_factory.mktemp("doctor")
    data = write(folder / "data")
    lively(tiny_bert(), factor=10).save_pretrained(folder / "bert")
    tiny_tokenizer().save_pretrained(folder / "bert")
    options: dict[str, Any] = QUICK | {"batch_size": 32, "learning_rate": 5e-3, "epochs": 4}
    options |= {"dataset": "sst2", "data_dir": data, "model": str(folder / "bert")}
    run = train(TrainConfig(output_dir=folder / "teacher", **options))
    assert run.metrics["validation"]["accuracy"] > 0.9
    return data, run.model_path


Examine = Callable[..., Diagnosis]


@pytest.fixture
def examine(healthy: tuple[Path, Path]) -> Examine:
    """`examine(**options)`: what `doctor` says of the healthy set-up with other options."""

    def run(**options: Any) -> Diagnosis:
        data, teacher = healthy
        known: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": data, "teacher": str(teacher)}
        if options.get("student", "bilstm") == "bilstm":
            known |= {"hidden_size": 6, "embedding_size": 6, "vocabulary": "words"}
        return doctor(DoctorConfig(**(known | options)))

    return run


def names(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The findings by name and severity."""
    return [(finding.check, finding.severity) for finding in diagnosis.findings]


def copy_of(teacher: Path, folder: Path, **changes: Any) -> Path:
    """The same teacher with other entries in its config.json."""
    folder.mkdir()
    for file in teacher.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def labels_of(values: Rows, label: Any, every: int) -> Rows:
    """The same rows, every so many of them with another label."""
    return [row | {"label": label} if number % every == 0 else row for number, row in enumerate(values)]


def longer(values: Rows) -> Rows:
    """Every third row goes on for 20 words that say nothing."""
    return [
        row | {"sentence": row["sentence"] + " a film" * 10} if number % 3 == 0 else row
        for number, row in enumerate(values)
    ]


# --- health ----------------------------------------------------------------------------------------------


def test_a_healthy_set_up_has_no_finding_and_an_estimate(examine: Examine, fresh_cache: Path) -> None:
    """Whoever is told of faults that are none stops reading."""
    result = examine()
    assert result.findings == [] and result.skipped == {}
    assert result.rows == {"train": 300, "validation": 120, "test": 80}
    assert {"teacher-level", "label-order", "shared-with-test", "unknown-tokens", "time"} <= set(
        result.checked
    )
    (teacher,) = result.estimates["teachers"].values()
    assert teacher["rows"] == 300 and teacher["rows_per_second"] > 0  # seconds are told to a tenth
    assert result.estimates["epoch"]["rows"] == 300 and result.estimates["epochs"] == 2
    epoch = result.estimates["epoch"]["seconds"]
    assert result.estimates["seconds"] == pytest.approx(teacher["seconds"] + 2 * epoch, abs=0.3)
    assert 2**26 < result.estimates["memory"]["bytes"] < result.estimates["memory"]["available"]
    (level,) = result.measured["teachers"].values()
    assert (level["classes_matched_by"], level["rows"]) == ("name", 120)
    assert level["accuracy_interval"][0] < level["accuracy"] < level["accuracy_interval"][1]


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0},
        {"alpha": 1, "teacher": None},
        {"vocabulary": "teacher", "embedding_size": None},
        {"max_train_samples": 200, "max_eval_samples": 110},
        {"max_length": None},
    ],
    ids=str,
)
def test_other_healthy_ways_to_distill_have_no_finding(examine: Examine, options: dict[str, Any]) -> None:
    assert examine(**options).findings == []


def test_a_student_of_the_teachers_layers_has_no_finding(
    examine: Examine, healthy: tuple[Path, Path]
) -> None:
    result = examine(student=str(healthy[1]), init="teacher", layers=1)
    assert result.findings == [] and "layers 1" in result.student


def test_generic_class_names_are_no_fault_where_the_answers_prove_their_order(
    examine: Examine, healthy: tuple[Path, Path], tmp_path: Path
) -> None:
    """Many a teacher on the Hub has LABEL_0 and LABEL_1."""
    generic = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    result = examine(teacher=str(copy_of(healthy[1], tmp_path / "generic", **generic)))
    assert result.findings == []
    assert next(iter(result.measured["teachers"].values()))["classes_matched_by"] == "id"


def test_a_small_validation_split_does_not_make_a_good_teacher_a_guesser(
    examine: Examine, tmp_path: Path
) -> None:
    data = write(tmp_path, validation=SPLITS["validation"][:20])
    assert names(examine(data_dir=data)) == [("few-validation-rows", "warning")]


def test_a_dataset_without_validation_has_some_held_out(examine: Examine, tmp_path: Path) -> None:
    result = examine(data_dir=write(tmp_path, train=EVERYTHING[:420] * 3, validation=None, test=None))
    assert result.rows == {"train": 1134, "validation": 126}
    assert {"repeated-rows", "shared-with-validation"} == {finding.check for finding in result.findings}
    remedies = [finding.do for finding in result.findings if finding.check == "shared-with-validation"]
    assert remedies == ["drop the repeats from the training file, of which these rows are a tenth"]


# --- planted faults --------------------------------------------------------------------------------------

TRAIN, VALIDATION = SPLITS["train"], SPLITS["validation"]
FAULTS: dict[str, tuple[dict[str, Rows], dict[str, Any], list[tuple[str, str]], str]] = {
    "hidden in train": (
        {"train": labels_of(TRAIN, -1, 10)},
        {},
        [("hidden-labels", "error")],
        "30 of 300 labels are -1, the first in row 1",
    ),
    "hidden in validation": (
        {"validation": labels_of(VALIDATION, -1, 10)},
        {"alpha": 0},
        [("hidden-labels", "error")],
        "12 of 120",
    ),
    "missing": (
        {"train": labels_of(TRAIN, None, 100)},
        {},
        [("missing-labels", "error")],
        "3 of 300",
    ),
    "unknown": (
        {"train": labels_of(TRAIN, 7, 100)},
        {},
        [("unknown-labels", "error")],
        "('7')",
    ),
    "empty": (
        {"train": [*TRAIN, {"sentence": "", "label": 0}]},
        {},
        [("empty-texts", "error")],
        "1 of 301 texts are empty, the first in row 301",
    ),
    "white space": (
        {"validation": [{"sentence": " \t ", "label": 0}, *VALIDATION]},
        {},
        [("empty-texts", "error")],
        "1 of 121 texts are empty (1 of white space only), the first in row 1",
    ),
    "class missing in train": (
        {"train": [row for row in TRAIN if row["label"]]},
        {},
        [("missing-class", "error")],
        "train has no row of negative (negative 0, positive 150)",
    ),
    "class missing in validation": (
        {"validation": [row for row in EVERYTHING[300:] if row["label"]], "test": []},
        {},
        [("missing-class", "warning")],
        "validation has no row of negative",
    ),
    "rare class": (
        {"train": [row for row in TRAIN if row["label"]] + [row for row in TRAIN if not row["label"]][:7]},
        {},
        [("rare-class", "warning")],
        "negative 7, positive 150",
    ),
    "contradictions": (
        {"train": [*TRAIN, *(row | {"label": 1 - row["label"]} for row in TRAIN[:2])]},
        {},
        [("contradicting-labels", "warning")],
        "4 of 302",
    ),
    "repeats": (
        {"train": [*TRAIN, *(row | {"sentence": row["sentence"].upper() + " "} for row in TRAIN[:10])]},
        {},
        [("repeated-rows", "warning")],
        "10 of 310",
    ),
    "some of validation in train": (
        {"train": [*TRAIN, *VALIDATION[:10]]},
        {},
        [("shared-with-validation", "warning")],
        "10 of 120 validation rows",
    ),
    "validation is train": (
        {"validation": TRAIN},
        {},
        [("shared-with-validation", "error")],
        "300 of 300 validation rows",
    ),
    "test in train": (
        {"train": [*TRAIN, *SPLITS["test"][:40]]},
        {},
        [("shared-with-test", "error")],
        "40 of 80 test rows",
    ),
    "few validation rows": (
        {"validation": VALIDATION[:40]},
        {},
        [("few-validation-rows", "warning")],
        "40 rows, so an accuracy of 0.9 there means 0.77 to 0.96",
    ),
    "cut": ({"train": longer(TRAIN)}, {}, [("cut-texts", "warning")], "--max-length 16 cuts 33.3%"),
    "words the student lacks": (
        {
            "train": [
                row
                | {"sentence": row["sentence"].replace("film", "a").replace("story", "a").replace("fun", "a")}
                for row in TRAIN
            ]
        },
        {},
        [("unknown-tokens", "warning")],
        "the student: ",
    ),
    "second text": (
        {"train": [row | {"answer": f"{n} is what they said"} for n, row in enumerate(TRAIN)]},
        {},
        [("second-text", "warning")],
        "text in answer too",
    ),
    "unused teacher": ({}, {"alpha": 1}, [("unused-teacher", "warning")], "alpha is 1"),
    "more than the teacher reads": ({}, {"max_length": 300}, [("max-length", "error")], "reads, 64 tokens"),
}


def test_contradictions_are_answered_by_the_command_that_has_the_option(
    examine: Examine, tmp_path: Path
) -> None:
    """`train` prints this remedy too, and has no --alpha."""
    splits, _, _, _ = FAULTS["contradictions"]
    (finding,) = examine(data_dir=write(tmp_path, **splits)).findings
    assert finding.do.endswith("let a teacher decide: distilkit distill --alpha 0")


def test_labels_that_are_missing_are_counted_where_rows_of_train_are_held_out(
    examine: Examine, tmp_path: Path
) -> None:
    result = examine(data_dir=write(tmp_path, train=labels_of(TRAIN, None, 100), validation=None))
    assert names(result) == [("missing-labels", "error"), ("few-validation-rows", "warning")]
    assert "3 of 300" in result.findings[0].line


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_data_is_found_and_nothing_else(fault: str, examine: Examine, tmp_path: Path) -> None:
    splits, options, wanted, text = FAULTS[fault]
    kept: dict[str, Any] = {split: values or None for split, values in splits.items()}
    result = examine(data_dir=write(tmp_path, **kept), **options)
    assert names(result) == wanted, [finding.line for finding in result.findings]
    (finding,) = result.findings
    assert text in finding.what
    assert finding.why.endswith(".") and finding.do


def test_what_a_person_is_told_to_type_mends_it(examine: Examine, tmp_path: Path) -> None:
    """Advice that does not help is worse than none."""
    (cut,) = examine(data_dir=write(tmp_path, train=longer(TRAIN))).findings
    assert cut.do.startswith("--max-length 32, in which 99% of the rows fit")
    assert examine(data_dir=tmp_path, max_length=32).findings == []


def test_a_teacher_that_was_not_fine_tuned_is_found(
    examine: Examine, healthy: tuple[Path, Path], tmp_path: Path
) -> None:
    """Both kinds: with a head that answers at random, and with none."""
    lively(tiny_bert(seed=3)).save_pretrained(tmp_path / "random")
    tiny_tokenizer().save_pretrained(tmp_path / "random")
    result = examine(teacher=str(tmp_path / "random"))
    assert [name for name, _ in names(result)] == ["teacher-level"]
    assert "was it fine-tuned" in result.findings[0].why or result.findings[0].severity == "warning"
    constant = tiny_bert(seed=3)
    constant.classifier.bias.data[1] = 100.0
    constant.save_pretrained(tmp_path / "constant")
    tiny_tokenizer().save_pretrained(tmp_path / "constant")
    result = examine(teacher=str(tmp_path / "constant"))
    assert names(result) == [("teacher-level", "error")]
    assert "as it says positive to every row" in result.findings[0].what
    tiny_bert().bert.save_pretrained(tmp_path / "none")
    tiny_tokenizer().save_pretrained(tmp_path / "none")
    result = examine(teacher=str(tmp_path / "none"))
    assert names(result) == [("teacher", "error")] and "classifier" in result.findings[0].what


def test_a_teacher_whose_names_are_in_the_wrong_order_is_found_by_its_answers(
    examine: Examine, healthy: tuple[Path, Path], tmp_path: Path
) -> None:
    """The names match, so nothing else notices; and the mending that is advised mends it."""
    swapped = copy_of(healthy[1], tmp_path / "swapped", id2label={"0": "positive", "1": "negative"})
    result = examine(teacher=str(swapped))
    assert names(result) == [("label-order", "error")]
    assert 'id2label": {"0": "negative", "1": "positive"}' in result.findings[0].do
    right = json.loads(result.findings[0].do.partition('"id2label": ')[2])
    assert examine(teacher=str(copy_of(swapped, tmp_path / "mended", id2label=right))).findings == []


@pytest.mark.parametrize("own", [["bad", "good"], ["a", "b", "c"]], ids=str)
def test_classes_that_cannot_be_matched_by_name_are_found(
    own: list[str], examine: Examine, healthy: tuple[Path, Path], tmp_path: Path
) -> None:
    if len(own) == 2:
        teacher = copy_of(healthy[1], tmp_path / "teacher", id2label=dict(enumerate(own)))
    else:
        teacher = tmp_path / "three"
        tiny_bert(names=own).save_pretrained(teacher)
        tiny_tokenizer().save_pretrained(teacher)
    result = examine(teacher=str(teacher))
    assert names(result) == [("label-names", "error")]
    assert ", ".join(own) in result.findings[0].what
    assert ('"0": "negative"' in result.findings[0].do) == (len(own) == 2), "three outputs cannot be two"


def test_words_that_the_teacher_does_not_know_are_found(examine: Examine, tmp_path: Path) -> None:
    """A teacher of another language reads [UNK]; the student, whose words are the data's, does not."""
    strange = [
        [row | {"sentence": row["sentence"].replace(",", "xyzzy").replace("told", "plugh")} for row in values]
        for values in (TRAIN, VALIDATION)
    ]
    result = examine(data_dir=write(tmp_path, train=strange[0], validation=strange[1]))
    assert names(result) == [("unknown-tokens", "warning")]
    assert result.findings[0].what.startswith("teacher ")


def test_a_teacher_that_tells_capitals_and_a_student_that_does_not_are_found(
    examine: Examine, healthy: tuple[Path, Path], tmp_path: Path
) -> None:
    teacher = copy_of(healthy[1], tmp_path / "cased")
    pipeline = json.loads((teacher / "tokenizer.json").read_text())
    (teacher / "tokenizer.json").write_text(json.dumps(pipeline | {"normalizer": None}))
    assert examine(teacher=str(teacher)).findings == []  # there are no capitals to tell
    values = [
        row | {"sentence": "A " + row["sentence"]} if number % 8 == 0 else row
        for number, row in enumerate(TRAIN)
    ]
    result = examine(teacher=str(teacher), data_dir=write(tmp_path / "data", train=values))
    assert names(result) == [("case", "warning")]
    assert (
        "the teacher tells capital letters from small ones and the student does not"
        in result.findings[0].what
    )


def test_a_pair_that_is_one_text_twice_is_found(examine: Examine, tmp_path: Path) -> None:
    pair = [row | {"other": row["sentence"].upper()} for row in TRAIN]
    judged = [row | {"other": "a film"} for row in VALIDATION]
    options: dict[str, Any] = {"alpha": 1, "teacher": None, "text_pair_column": "other", "max_length": 32}
    data = write(tmp_path, train=pair, validation=judged, test=None)
    assert names(examine(data_dir=data, **options)) == [("same-pairs", "error")]


def test_minus_one_beside_zero_is_asked_about_and_beside_one_alone_is_not(
    examine: Examine, tmp_path: Path
) -> None:
    """In data without names of its own it is a class; but a hidden label looks the same."""
    options: dict[str, Any] = {"dataset": None, "text_column": "sentence", "alpha": 1, "teacher": None}
    three = write(
        tmp_path / "three", train=labels_of(TRAIN, -1, 3), validation=labels_of(VALIDATION, -1, 3), test=None
    )
    assert names(examine(data_dir=three, **options)) == [("hidden-labels", "warning")]
    two = [[row | {"label": 2 * row["label"] - 1} for row in values] for values in (TRAIN, VALIDATION)]
    signs = write(tmp_path / "two", train=two[0], validation=two[1], test=None)
    assert examine(data_dir=signs, **options).findings == []


def test_labels_that_training_refuses_are_found_and_the_other_checks_are_made(
    examine: Examine, tmp_path: Path
) -> None:
    """`doctor` called right labels wrong and passed over those that `train` stops at."""
    options: dict[str, Any] = {"dataset": None, "text_column": "sentence", "alpha": 1, "teacher": None}

    def examine_labels(name: str, train: dict[int, Any], validation: dict[int, Any]) -> Diagnosis:
        named = {
            split: [row | {"label": labels[row["label"]]} for row in values]
            for split, values, labels in (("train", TRAIN, train), ("validation", VALIDATION, validation))
        }
        return examine(data_dir=write(tmp_path / name, **named, test=None), **options)

    words = {0: "bad", 1: "good"}
    assert examine_labels("same", words, {0: "BAD ", 1: "good"}).findings == []
    result = examine_labels("ids", words, {0: "0", 1: "1"})
    assert names(result) == [("unknown-labels", "error")]
    assert "row 1: the label is" in result.findings[0].what
    spelled = [row | {"label": words[row["label"]]} for row in TRAIN]
    spelled[0] = spelled[0] | {"label": f" {spelled[0]['label'].upper()}"}
    folder = write(
        tmp_path / "spelled",
        train=spelled,
        validation=[row | {"label": words[row["label"]]} for row in VALIDATION],
        test=None,
    )
    result = examine(data_dir=folder, **options)
    assert names(result) == [("label-spelling", "error")]
    assert "one class is written in several ways" in result.findings[0].what


def test_labels_of_one_class_end_the_examination_with_a_finding(examine: Examine, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": None, "text_column": "sentence", "alpha": 1, "teacher": None}
    result = examine(data_dir=write(tmp_path, train=labels_of(TRAIN, 0, 1)), **options)
    assert names(result) == [("missing-class", "error")] and "all other checks" in result.skipped


def test_too_little_memory_and_too_much_time_are_found(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 2**20)
    monkeypatch.setattr(cost, "DAY", 1e-6)
    assert names(examine()) == [("memory", "error"), ("time", "warning")]


def test_several_faults_are_told_at_once(examine: Examine, tmp_path: Path) -> None:
    """Loading stops at the first of them: a person would mend and start again, fault by fault."""
    broken = [*labels_of(TRAIN, -1, 50), {"sentence": "", "label": 1}]
    tiny_bert(seed=3).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    data = write(tmp_path / "data", train=broken, validation=VALIDATION[:90] + TRAIN[:5])
    found = [name for name, _ in names(examine(data_dir=data, teacher=str(tmp_path / "teacher")))]
    assert found == [
        "empty-texts",
        "hidden-labels",
        "shared-with-validation",
        "few-validation-rows",
        "teacher-level",
    ]


def test_what_cannot_be_looked_at_is_a_mistake(examine: Examine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'nothing'"):
        examine(text_column="nothing")
    with pytest.raises(UserError, match="/does/not/exist"):
        examine(teacher="/does/not/exist")
    with pytest.raises(UserError, match="doctor looks at a dataset"):
        examine(dataset=None, data_dir=None, transfer="a.txt", alpha=0)


# --- limits of judgement ---------------------------------------------------------------------------------


def level(right: int, rows: int, majority: float, chance: float, ordered: int = 0) -> list[tuple[str, str]]:
    held = AnswerSkill(rows, right, majority, chance, [rows // 2, rows - rows // 2], [1, 0], ordered)
    found = models.teacher_skill("validation", "t", held, ("neg", "pos"), [0, 1])
    return [(finding.check, finding.severity) for finding in found]


@pytest.mark.parametrize(
    ("right", "rows", "majority", "chance", "wanted"),
    [
        (790, 872, 0.51, 0.50, []),  # SST-2's
        (328, 408, 0.68, 0.57, []),  # MRPC's
        (965, 1000, 0.95, 0.91, []),  # a good one on classes of 95 and 5 per cent
        (436, 872, 0.51, 0.50, [("teacher-level", "error")]),
        (455, 872, 0.51, 0.50, [("teacher-level", "warning")]),
        (500, 872, 0.51, 0.50, []),
        (600, 1000, 0.95, 0.50, [("teacher-level", "warning")]),  # one constant answer does better
        (9, 10, 0.5, 0.5, []),
        (6, 10, 0.6, 0.5, []),
        (4, 10, 0.6, 0.5, [("teacher-level", "warning")]),
    ],
)
def test_a_level_is_told_of_where_the_rows_suffice_to_tell(
    right: int, rows: int, majority: float, chance: float, wanted: list[tuple[str, str]]
) -> None:
    assert level(right, rows, majority, chance) == wanted


def test_another_order_must_be_surely_better() -> None:
    """A teacher that guesses is no swapped one, whichever way its guesses fell."""
    assert level(80, 872, 0.51, 0.5, ordered=792) == [("label-order", "error")]
    assert level(400, 872, 0.51, 0.5, ordered=472) == [("teacher-level", "error")]


# --- before `distill` ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sst2", "mrpc", "imdb"])
def test_real_datasets_are_left_alone_before_distilling(name: str) -> None:
    config = resolve(
        DistillConfig(dataset=name, data_dir=real_data(name), teacher="t", output_dir="o")  # type: ignore[arg-type]
    )
    data = load_for_training(config, None)
    ids = data.labels_of["train"]
    lengths = (ids * 0) + 128
    found = early.before_distilling(config, data, lengths, False, ids, [0, 1])
    assert found == []


def test_distill_tells_of_faults_and_makes_the_same_student(
    healthy: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, teacher = healthy
    options: dict[str, Any] = QUICK | {"dataset": "sst2", "hidden_size": 6, "embedding_size": 6}
    options |= {"teacher": str(teacher)}
    notes = Notes()
    distill(DistillConfig(data_dir=data, output_dir=tmp_path / "healthy", **options), notes)
    assert not [note for note in notes.notes if note.startswith(("warning", "error"))]
    faulty = write(tmp_path / "data", train=longer(TRAIN), validation=TRAIN)
    notes = Notes()
    run = distill(DistillConfig(data_dir=faulty, output_dir=tmp_path / "told", **options), notes)
    told = [note for note in notes.notes if note.startswith(("warning", "error"))]
    assert [note.partition(":")[0] for note in told] == ["warning", "warning"], "it goes on"
    assert "200 of 300 validation rows are training rows too" in told[0]
    assert "100 of 300 rows fill the 16 tokens" in told[1]
    monkeypatch.setattr("distilkit.workflows.distillation.inputs.before_distilling", lambda *_, **__: [])
    untold = distill(DistillConfig(data_dir=faulty, output_dir=tmp_path / "untold", **options))
    assert weights(run) == weights(untold)


def test_distill_tells_of_a_teacher_that_guesses(tmp_path: Path) -> None:
    """By the training labels, as its logits of these rows are there anyway."""
    constant = tiny_bert(seed=3)
    constant.classifier.bias.data[1] = 100.0
    constant.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    options: dict[str, Any] = QUICK | {"dataset": "sst2", "hidden_size": 6, "embedding_size": 6}
    options |= {"data_dir": write(tmp_path / "data"), "teacher": str(tmp_path / "teacher")}
    notes = Notes()
    distill(DistillConfig(output_dir=tmp_path / "run", **options), notes)
    told = [note for note in notes.notes if note.startswith("warning: the teacher")]
    assert len(told) == 1 and "the teacher is right in 50.0% of 300 training rows" in told[0]


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_answers_0_3_or_2_and_prints_what_to_do(
    healthy: tuple[Path, Path], tmp_path: Path, console: Call
) -> None:
    data, teacher = healthy
    small = ("--hidden-size", "6", "--embedding-size", "6", "--max-length", "16", "-b", "8")
    command = ("doctor", "-d", "sst2", "-t", str(teacher), *small, "--data-dir")
    answer = console(*command, str(data))
    assert answer.code == 0 and "\nnothing found; checked: teacher, empty-texts" in answer.out
    assert "estimate: memory" in answer.out
    few = write(tmp_path / "few", validation=VALIDATION[:40])
    answer = console(*command, str(few))
    assert answer.code == 0 and "0 errors, 1 warning;" in answer.out
    broken = write(tmp_path / "broken", train=labels_of(TRAIN, -1, 10))
    answer = console(*command, str(broken))
    assert answer.code == 3 and "doctor: 1 error (hidden-labels)" in answer.err
    for text in ("error: ", "    why: ", "    to do: ", "1 error, 0 warnings;"):
        assert text in answer.out
    answer = console(*command, str(tmp_path / "nowhere"))
    assert (answer.code, answer.out) == (2, "")
    assert not list(tmp_path.rglob("metrics.json"))


def test_the_json_is_one_document_with_these_fields(
    healthy: tuple[Path, Path], tmp_path: Path, console: Call
) -> None:
    """What a script reads must not move."""
    data = write(tmp_path, train=labels_of(TRAIN, -1, 10))
    arguments = ("-d", "sst2", "--data-dir", str(data), "-t", str(healthy[1]), "--max-length", "16")
    answer = console("doctor", *arguments, "--hidden-size", "6", "--json")
    assert answer.code == 3
    document = json.loads(answer.out)
    assert list(document) == [
        "schema",
        "dataset",
        "device",
        "rows",
        "teachers",
        "student",
        "findings",
        "checked",
        "skipped",
        "measured",
        "estimates",
        "recipe",
    ]
    assert document["schema"] == "distilkit.doctor/1"
    assert [list(finding) for finding in document["findings"]] == [["check", "severity", "what", "why", "do"]]
    assert set(document["measured"]) == {"classes", "overlap", "tokens", "teachers"}
    assert set(document["estimates"]) == {"teachers", "epoch", "epochs", "seconds", "memory"}
    assert document["measured"]["classes"]["train"] == {"negative": 120, "positive": 150}


def test_only_errors_are_a_missed_gate() -> None:
    finding = models.broken_teacher("it is broken")
    with pytest.raises(FaultFound, match="teacher"):
        check_findings(Diagnosis("d", "CPU", findings=[finding]))
    check_findings(Diagnosis("d", "CPU", findings=[replace(finding, severity="warning")]))


def test_a_recipe_is_followed_but_for_the_text_it_would_make(examine: Examine, tmp_path: Path) -> None:
    """`doctor` must not write a file of new texts; and what the recipe chooses is what is looked at."""
    before = set(tmp_path.iterdir())
    unset = dict.fromkeys(("epochs", "batch_size", "hidden_size", "embedding_size", "vocabulary"))
    result = examine(recipe="auto", **unset)
    assert result.findings == [] and "word-piece embeddings" in result.student
    assert set(tmp_path.iterdir()) == before


def test_a_recipes_texts_are_counted_and_its_choices_are_shown(
    examine: Examine, healthy: tuple[Path, Path], tmp_path: Path
) -> None:
    """An estimate without the text that the recipe makes is short by a factor of ten and more."""
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    unset = dict.fromkeys(("epochs", "batch_size", "hidden_size", "embedding_size", "vocabulary"))
    result = examine(recipe="auto", output_dir=tmp_path / "student", **unset)
    choices = {choice["name"]: choice["value"] for choice in result.recipe}
    assert choices["transfer"] == ("augmented",) and choices["epochs"] == result.estimates["epochs"]
    estimated = result.estimates["new_texts"]["rows"]
    assert 1000 < estimated <= 20 * 300
    assert result.estimates["epoch"]["rows"] == 300 + estimated
    (teacher,) = result.estimates["teachers"].values()
    assert teacher["rows"] == 300 + estimated or teacher["rows"] == estimated, "300 may be cached"
    assert teacher["transfer_rows"] == estimated
    shown = diagnosis_text(result.document())
    assert f"{estimated:,} of them transfer text that was not looked up in the cache" in shown

    data, teacher_folder = healthy
    notes = Notes()
    options = unset | {"dataset": "sst2", "data_dir": data, "teacher": str(teacher_folder), "max_length": 16}
    options |= {"epochs": 1, "precision": "fp32", "recipe": "auto", "output_dir": tmp_path / "student"}
    run = distill(DistillConfig(**options), notes)
    made = run.environment["dataset"]["rows"]["transfer"]
    assert made == pytest.approx(estimated, rel=0.15), "less than 500 rows are generated whole"
    (announced,) = (note for note in notes.notes if note.startswith("estimate: "))
    assert f"1 epoch of {300 + made:,} rows" in announced
    assert "--epochs N or --patience N makes it shorter" in announced
    again = examine(recipe="auto", output_dir=tmp_path / "again", **unset)
    assert again.estimates["new_texts"] == {"rows": made, "seconds": 0.0}, "the file is there now"


def test_without_a_teacher_the_data_are_checked(healthy: tuple[Path, Path], tmp_path: Path) -> None:
    """Data are checked before a teacher is trained on them."""
    options: dict[str, Any] = QUICK | {"dataset": "sst2", "hidden_size": 6, "embedding_size": 6}
    result = doctor(DoctorConfig(**options, data_dir=healthy[0]))
    assert result.findings == [] and "repeated-rows" in result.checked
    assert "--teacher" in result.skipped["teacher"]
    faulty = write(tmp_path, train=labels_of(TRAIN, -1, 10))
    assert names(doctor(DoctorConfig(**options, data_dir=faulty))) == [("hidden-labels", "error")]
    with pytest.raises(UserError, match=r"alpha 0\.5 needs a teacher"):
        DoctorConfig(**options, data_dir=healthy[0], alpha=0.5)


@pytest.mark.parametrize("has_file", [True, False])
def test_advice_on_validation_rows_knows_where_they_come_from(
    has_file: bool, examine: Examine, tmp_path: Path
) -> None:
    """Rows that are held out already cannot be mended by removing a file, nor is one there to be removed."""
    good = [row for row in TRAIN if row["label"] == 1]
    train_rows = good[:140] + [row for row in TRAIN if row["label"] == 0][:3]
    data = write(tmp_path, train=train_rows, validation=good[140:] if has_file else None, test=None)
    advice = {finding.check: finding.do for finding in examine(data_dir=data).findings}
    assert ("the validation file" in advice["missing-class"]) == has_file
    assert ("validation is a tenth of train" in advice["missing-class"]) != has_file
    assert "a tenth of train is then held out" not in " ".join(advice.values())
    assert ("give a validation file" in advice["few-validation-rows"]) != has_file


def test_distill_warns_and_goes_on(healthy: tuple[Path, Path], tmp_path: Path, console: Call) -> None:
    """A line that begins with `error:` in the log of a command that succeeded fails a build for nothing."""
    teacher = healthy[1]
    few = write(tmp_path / "few", validation=VALIDATION[:40])
    options: dict[str, Any] = QUICK | {"hidden_size": 6, "embedding_size": 6, "dataset": "sst2", "epochs": 1}
    options |= {"data_dir": few, "teacher": str(teacher), "output_dir": tmp_path / "warned"}
    with pytest.warns(DistilkitWarning, match="validation has 40 rows"):
        distill(DistillConfig(**options))
    small = ("--hidden-size", "6", "--embedding-size", "6", "--max-length", "16", "-e", "1")
    common = ("-d", "sst2", "--data-dir", str(few), "-t", str(teacher), *small)
    answer = console("distill", *common, "-o", str(tmp_path / "run"))
    assert answer.code == 0
    assert "\nwarning: validation has 40 rows" in answer.err and "error:" not in answer.err
