"""A teacher that is a file teaches what the model behind it would, and nothing that it does not say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import GOOD, QUICK, SMALL, Call, Notes, rows, weights, write_jsonl
from torch import Tensor

from distilkit import DistillConfig, UserError, distill
from distilkit.config import resolve
from distilkit.data import large, transfer
from distilkit.data.sources import load_for_training
from distilkit.data.targets import softmax
from distilkit.runs.run import Run
from distilkit.workflows.distillation.inputs import gather_inputs
from distilkit.workflows.distillation.teachers import (
    TeacherEnsemble,
    keep_covered_rows,
    load_teachers,
    match_classes,
    read_teacher_files,
)
from distilkit.workflows.distillation.workflow import distill_many

Make = Callable[..., DistillConfig]
NAMES = ("negative", "positive")
TEXTS = list(dict.fromkeys(row["sentence"] for row in rows()))


@pytest.fixture
def config(sst2_dir: Path, tmp_path: Path) -> Make:
    """`config(**options)`: a quick `DistillConfig` with words of its own, into `tmp_path / "run"`."""

    def make(**options: Any) -> DistillConfig:
        known: dict[str, Any] = (
            QUICK | SMALL | {"dataset": "sst2", "data_dir": sst2_dir, "vocabulary": "words"}
        )
        return DistillConfig(**(known | {"output_dir": tmp_path / "run", "learning_rate": 1e-2} | options))

    return make


@pytest.fixture
def logits(config: Make, teacher_run: Run) -> dict[str, list[float]]:
    """The logits that the teacher gives to each text."""
    asked = resolve(config(teacher=str(teacher_run.path)))
    data = load_for_training(asked, None)
    teachers: Any = load_teachers(asked, True)
    ensemble = TeacherEnsemble(asked, teachers, [match_classes(teachers[0], data, Notes())], data, Notes())
    return dict(zip(data.texts("train").first, ensemble.logits("train").tolist(), strict=True))


def write_targets(folder: Path, name: str, logits: dict[str, list[float]]) -> str:
    """Write a file of that kind, its rows shuffled and half of its classes in capitals."""
    texts = [TEXTS[i] for i in np.random.default_rng(0).permutation(len(TEXTS))]
    beliefs = dict(zip(texts, softmax(np.array([logits[text] for text in texts])).tolist(), strict=True))
    cells: dict[str, Callable[[str], dict[str, Any]]] = {
        "logits": lambda text: {"NEGATIVE": logits[text][0], "positive": logits[text][1]},
        "probabilities": lambda text: {"positive": beliefs[text][1], "NEGATIVE": beliefs[text][0]},
        "logprobs": lambda text: {
            "logprobs": {"Positive": np.log(beliefs[text][1]), "negative": np.log(beliefs[text][0])}
        },
        "scores": lambda text: {
            "scores": [
                {"label": "positive", "score": beliefs[text][1]},
                {"label": "NEG", "score": beliefs[text][0]},
            ]
        },
        "label": lambda text: {"label": "pos" if text in GOOD else "neg"},
    }
    return str(write_jsonl(folder / f"{name}.jsonl", [{"text": text, **cells[name](text)} for text in texts]))


def teacher_logits(config: DistillConfig) -> Tensor:
    found = gather_inputs([config], Notes()).teacher_logits
    assert found is not None
    return found


def test_a_student_of_the_teachers_logits_in_a_file_is_that_of_the_teacher_to_the_byte(
    config: Make, teacher_run: Run, logits: dict[str, list[float]], tmp_path: Path
) -> None:
    """Rows joined by position, or columns by order, would make another student."""
    taught = distill(config(teacher=str(teacher_run.path)))
    lines = write_targets(tmp_path, "logits", logits)
    table = pd.read_json(lines, lines=True, precise_float=True)
    table.to_csv(tmp_path / "logits.csv", index=False)
    table.astype({"positive": "float32"}).to_parquet(tmp_path / "logits.parquet")
    for file in (lines, str(tmp_path / "logits.csv"), str(tmp_path / "logits.parquet")):
        run = distill(config(teacher_file=file, output_dir=tmp_path / f"from-{Path(file).suffix}"))
        assert weights(run) == weights(taught), file
    assert run.environment["teachers"][0]["name"] == file and run.config.soft_loss == "mse"
    assert run.metrics["validation"] == taught.metrics["validation"]


@pytest.mark.parametrize("name", ["probabilities", "logprobs", "scores"])
def test_probabilities_of_any_kind_are_learned_by_the_kl_at_temperature_1(
    config: Make, teacher_run: Run, logits: dict[str, list[float]], tmp_path: Path, name: str
) -> None:
    notes = Notes()
    run = distill(config(teacher_file=write_targets(tmp_path, name, logits), alpha=0), notes)
    assert "loss = KL(teacher_probabilities || softmax(student_logits))" in notes.notes
    assert (run.config.soft_loss, run.config.temperature) == ("kl", 1)
    options = {"soft_loss": "kl", "temperature": 1, "alpha": 0, "output_dir": tmp_path / "live"}
    taught = distill(config(teacher=str(teacher_run.path), **options))
    losses, expected = ([line["soft_loss"] for line in made.history] for made in (run, taught))
    assert losses == pytest.approx(expected, rel=1e-4)
    again = distill(run.config.model_copy(update={"overwrite": True}))
    assert weights(again) == weights(run), "the run's own config.yaml repeats it"


def test_the_mse_of_probabilities_is_refused(config: Make, logits: Any, tmp_path: Path) -> None:
    file = write_targets(tmp_path, "probabilities", logits)
    with pytest.raises(UserError, match=r"--soft-loss mse compares logits, and --teacher-file .* holds prob"):
        distill(config(teacher_file=file, soft_loss="mse"))
    with pytest.raises(UserError, match="temperature 2 is for"):
        distill(config(teacher_file=write_targets(tmp_path, "logits", logits), temperature=2))
    assert not (tmp_path / "run").exists()


def test_labels_alone_teach_their_class(config: Make, logits: Any, tmp_path: Path) -> None:
    found = softmax(teacher_logits(config(teacher_file=write_targets(tmp_path, "label", logits))).numpy())
    assert found[:, 1] == pytest.approx([0] * 8 + [1] * 8, abs=1e-6)


def test_the_targets_are_kept_in_the_cache_under_the_hash_of_the_file(
    config: Make, logits: Any, tmp_path: Path, fresh_cache: Path, console: Call
) -> None:
    """Another file of the same name must not be answered from what the first one said."""
    file = write_targets(tmp_path, "logits", logits)
    for told in ("0 cached, 8 read", "8 cached (8 spot-checked), 0 read"):
        notes = Notes()
        first = gather_inputs([config(teacher_file=file)], notes).teacher_logits
        assert any(told in note for note in notes.notes)
    (entry,) = json.loads(console("cache", "list", "--json").out)["entries"]
    assert (entry["name"], entry["rows"], entry["classes"]) == (file, 8, ["negative", "positive"])
    other = {text: [value + 1 for value in values] for text, values in logits.items()}
    write_targets(tmp_path, "logits", other)
    second = teacher_logits(config(teacher_file=file))
    assert first is not None and (second - first).numpy() == pytest.approx(np.ones((16, 2)), abs=1e-5)


def test_files_and_models_are_weighed_in_the_mean_of_their_logits(
    config: Make, teacher_run: Run, logits: Any, tmp_path: Path
) -> None:
    shifted = {text: [value + 4 for value in values] for text, values in logits.items()}
    file = write_targets(tmp_path, "logits", shifted)
    options = {"teacher_file": file, "targets": "logits", "teacher_weight": (3, 1)}
    found = teacher_logits(config(teacher=str(teacher_run.path), **options))
    expected = np.array([logits[row["sentence"]] for row in rows()]) + 1
    assert found.numpy() == pytest.approx(expected, abs=1e-4)


def test_with_a_file_of_probabilities_the_mean_is_that_of_probabilities(
    config: Make, teacher_run: Run, logits: Any, tmp_path: Path
) -> None:
    """The logarithm of a probability of 0 would drown any logit in a mean of logits."""
    notes = Notes()
    file = write_targets(tmp_path, "label", logits)
    inputs = gather_inputs([config(teacher=str(teacher_run.path), teacher_file=file)], notes)
    assert inputs.teacher_logits is not None and inputs.has_probabilities
    taught = softmax(np.array([logits[row["sentence"]] for row in rows()]))
    hard = np.array([[1 - row["label"], row["label"]] for row in rows()])
    assert softmax(inputs.teacher_logits.numpy()) == pytest.approx((taught + hard) / 2, abs=1e-5)
    assert any("mean is that of probabilities" in note for note in notes.notes)
    assert inputs.configs[0].soft_loss == "kl"


def test_rows_that_the_file_lacks_are_refused_or_not_trained_on(
    config: Make, logits: Any, tmp_path: Path
) -> None:
    values = [
        json.loads(line) for line in Path(write_targets(tmp_path, "logits", logits)).read_text().splitlines()
    ]
    file = str(write_jsonl(tmp_path / "some.jsonl", values[:5]))
    with pytest.raises(UserError, match="no target for 6 of 16 train rows"):
        distill(config(teacher_file=file))
    notes = Notes()
    inputs = gather_inputs([config(teacher_file=file, missing="skip")], notes)
    known = {value["text"] for value in values[:5]}
    kept = [row for row in rows() if row["sentence"] in known]
    assert list(inputs.data.texts("train").first) == [row["sentence"] for row in kept]
    assert inputs.labels is not None and inputs.labels.tolist() == [row["label"] for row in kept]
    assert inputs.teacher_logits is not None
    assert inputs.teacher_logits.numpy() == pytest.approx(
        np.array([logits[row["sentence"]] for row in kept]), abs=1e-6
    )
    assert any("left out 6 of 16 train rows" in note for note in notes.notes)


def test_text_that_the_file_itself_holds_is_distilled_on_without_a_dataset(tmp_path: Path) -> None:
    """An LLM's answers are text and teacher at once; the file alone knows the classes."""
    values = [{"text": f"{text} {i}", "no": 0.9, "yes": 0.1} for i, text in enumerate(TEXTS * 3)]
    file = str(write_jsonl(tmp_path / "answers.jsonl", values))
    options: dict[str, Any] = QUICK | SMALL | {"alpha": 0, "output_dir": tmp_path / "run"}
    run = distill(DistillConfig(teacher_file=file, transfer=file, **options))
    config = json.loads((run.model_path / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes"}
    assert run.metrics["validation"]["agreement"] == 1


def test_transfer_text_that_the_file_lacks_is_refused_or_left_out(
    config: Make, logits: Any, tmp_path: Path
) -> None:
    file = write_targets(tmp_path, "logits", logits)
    more = write_jsonl(tmp_path / "more.jsonl", [{"text": "A  GREAT film ,"}, {"text": "So Great Fun"}])
    with pytest.raises(UserError, match="a target for none of the 2 transfer rows"):
        gather_inputs([config(teacher_file=file, transfer=str(more))], Notes())
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    both = str(
        write_jsonl(
            tmp_path / "both.jsonl", [*lines, {"text": "so great fun", "NEGATIVE": -1, "positive": 2}]
        )
    )
    options = {"teacher_file": both, "transfer": str(more), "targets": "logits"}
    with pytest.raises(UserError, match="no target for 1 of 2 transfer rows"):
        gather_inputs([config(**options)], Notes())
    found = gather_inputs([config(**options, missing="skip")], Notes())
    assert len(found.data.splits["transfer"]) == 1 and found.teacher_logits is not None
    assert found.teacher_logits[-1].tolist() == [-1, 2]


def test_the_recipe_adds_no_text_that_a_file_cannot_label(config: Make, logits: Any, tmp_path: Path) -> None:
    notes = Notes()
    file = write_targets(tmp_path, "logits", logits)
    run = distill(config(teacher_file=file, recipe="auto", vocabulary=None, epochs=None), notes)
    assert any(note.startswith("recipe: no text is added, as a --teacher-file") for note in notes.notes)
    assert run.config.transfer == () and run.config.vocabulary == "words" and run.config.alpha == 0
    assert run.config.epochs is not None and run.config.epochs > 2


def test_students_of_a_file_that_are_distilled_together_equal_those_alone(
    config: Make, logits: Any, tmp_path: Path
) -> None:
    file = write_targets(tmp_path, "probabilities", logits)
    configs = [config(teacher_file=file, seed=seed, output_dir=tmp_path / f"{seed}") for seed in (1, 2)]
    together = distill_many(configs)
    for run, asked in zip(together, configs, strict=True):
        alone = distill(asked.model_copy(update={"output_dir": tmp_path / f"alone-{asked.seed}"}))
        assert weights(alone) == weights(run)


def test_at_alpha_1_no_file_is_read(config: Make, tmp_path: Path) -> None:
    run = distill(config(teacher_file=str(tmp_path / "not there.csv"), alpha=1))
    assert "teachers" not in run.environment and run.config.soft_loss == "mse"


def test_a_student_on_labels_alone_learns_from_the_rows_of_its_siblings(
    config: Make, logits: dict[str, list[float]], tmp_path: Path
) -> None:
    """Compared with a taught student, it would win or lose by the rows that only one of them saw."""
    few = {text: logits[text] for text in TEXTS[:5]}
    lines = [{"text": text, "negative": low, "positive": high} for text, (low, high) in few.items()]
    file = str(write_jsonl(tmp_path / "few.jsonl", lines))

    def configure(name: str, alpha: float) -> DistillConfig:
        return config(teacher_file=file, missing="skip", alpha=alpha, output_dir=tmp_path / name)

    alone = distill(configure("alone", 1))
    labels_only, taught = distill_many([configure("labels-only", 1), configure("taught", 0.5)])
    rows = [run.environment["dataset"]["rows"]["train"] for run in (alone, labels_only, taught)]
    assert rows == [10, 10, 10], "each of the five stands twice"
    assert weights(alone) == weights(labels_only) != weights(taught)
    assert "teachers" not in alone.environment


# --- shards with the texts beside their targets ---------------------------------------------------------


def write_shards(folder: Path, logits: dict[str, list[float]], copies: int = 5) -> Path:
    """Write shards of 16 texts with a suffix each, in no order, and the logits of the text."""
    folder.mkdir()
    values = [
        {"text": f"{text} {copy}", "negative": logits[text][0] + copy, "positive": logits[text][1]}
        for copy in range(copies)
        for text in TEXTS
    ]
    order = np.random.default_rng(0).permutation(len(values))
    for start in range(0, len(values), 16):
        table = pd.DataFrame([values[i] for i in order[start : start + 16]])
        table.to_parquet(folder / f"part-{start:03}.parquet")
    return folder


@pytest.mark.parametrize("dataset", [None, "sst2"])
def test_a_student_of_shards_is_that_of_one_file_to_the_byte(
    config: Make,
    logits: dict[str, list[float]],
    tmp_path: Path,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str | None,
) -> None:
    """Targets that are read beside the texts must be those of these rows, when some are left out too."""
    folder = write_shards(tmp_path / "parts", logits | {GOOD[0]: [9.0, -9.0]})
    whole = tmp_path / "whole.parquet"
    pd.concat(map(pd.read_parquet, sorted(folder.iterdir()))).to_parquet(whole, index=False)
    options: dict[str, Any] = {"alpha": 0, "dataset": None, "data_dir": None}
    if dataset:  # whose validation rows are in the transfer text too
        validation = [{"sentence": f"{text} 0", "label": NAMES[text in GOOD]} for text in TEXTS]
        write_jsonl(tmp_path / "data" / "validation.jsonl", validation)
        options |= {"dataset": None, "data_dir": tmp_path / "data", "text_column": "sentence"}
    runs = []
    for name, source in (("whole", whole), ("shards", folder), ("pattern", f"{folder}/*.parquet")):
        notes = Notes()
        options |= {"transfer": str(source), "teacher_file": str(source), "output_dir": tmp_path / name}
        runs.append(distill(config(**options), notes))
        assert any("targets beside" in note for note in notes.notes) == (name != "whole")
        monkeypatch.setattr(large, "MEMORY_BYTES", 64)  # the shards' arrays are in files
    assert weights(runs[1]) == weights(runs[0]) == weights(runs[2])


def test_rows_of_shards_without_a_target_are_refused_or_left_out(
    config: Make, logits: dict[str, list[float]], tmp_path: Path
) -> None:
    folder = write_shards(tmp_path / "parts", logits)
    file = sorted(folder.iterdir())[1]
    table = pd.read_parquet(file)
    table.loc[3, ["negative", "positive"]] = None
    table.to_parquet(file)
    options = {
        "alpha": 0,
        "dataset": None,
        "data_dir": None,
        "transfer": str(folder),
        "teacher_file": str(folder),
    }
    with pytest.raises(UserError, match="has no target for 1 of 36 train rows, such as row"):
        distill(config(**options))
    notes = Notes()
    distill(config(**options, missing="skip"), notes)
    assert any("--missing skip: left out 1 of" in note for note in notes.notes)
    write_jsonl(folder / "about.json", [{"text": "no shard"}])
    assert teacher_logits(config(**options, missing="skip")).isfinite().all()


def test_shards_that_change_while_they_are_read_are_refused(
    config: Make, logits: dict[str, list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets beside texts that are no longer there would be joined by position."""
    folder = write_shards(tmp_path / "parts", logits)
    asked = config(alpha=0, dataset=None, data_dir=None, transfer=str(folder), teacher_file=str(folder))
    data = transfer.load(asked, labelled=False, names=NAMES)
    first, second = sorted(folder.iterdir())[:2]
    first.rename(folder / "swapped"), second.rename(first), (folder / "swapped").rename(second)
    files = read_teacher_files(asked, data.names, Notes())
    with pytest.raises(UserError, match="its files have changed since the texts were read"):
        keep_covered_rows(asked, data, files, Notes())
