"""Students distilled together are, each to the byte, what they would be alone."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, Interrupt, Notes, lively, rows, tiny_bert, tiny_tokenizer, weights
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilkit import DistillConfig, UserError, distill
from distilkit.config.fields import field_infos, replace_values
from distilkit.config.fitting import HARDWARE_FIELDS
from distilkit.models.loading import fingerprint
from distilkit.runs.run import Run, writing
from distilkit.workflows.distillation import scheduling
from distilkit.workflows.distillation import teachers as teaching
from distilkit.workflows.distillation.workflow import distill_many

Make = Callable[..., DistillConfig]
ENCODER = {"student": "tinybert", "init": "teacher", "layers": 1, "learning_rate": 1e-3}
BILSTM = {"student": "bilstm", "hidden_size": 6, "embedding_size": 6, "dropout": 0.3}


@pytest.fixture(params=[1, 2], ids=["one core", "two cores"])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many lanes as torch has threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(sst2_dir: Path, teacher_run: Run, tmp_path: Path) -> Make:
    """`config("name", **options)`: a quick `DistillConfig` into `tmp_path / "name"`."""

    def make(name: str = "run", **options: Any) -> DistillConfig:
        known: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": sst2_dir, "learning_rate": 1e-2}
        known |= {"teacher": str(teacher_run.path), "output_dir": tmp_path / name}
        return DistillConfig(**(known | (BILSTM if "student" not in options else {}) | options))

    return make


def grid(config: Make, folder: str, **options: Any) -> list[DistillConfig]:
    """Three alphas, two seeds."""
    return [
        config(f"{folder}/{alpha}-{seed}", alpha=alpha, seed=seed, **options)
        for alpha, seed in itertools.product((0, 0.4, 1), (1, 2))
    ]


def watch_teachers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass of a teacher reads."""
    given: list[int] = []
    original = teaching.predict_texts

    def watched(model: Any, tokenizer: Any, texts: Any, positions: Any, **options: Any) -> Any:
        given.append(len(positions))
        return original(model, tokenizer, texts, positions, **options)

    monkeypatch.setattr(teaching, "predict_texts", watched)
    return given


def facts(run: Run) -> dict[str, Any]:
    """What a run says of itself, without what differs whenever it is made."""
    environment = {
        name: value
        for name, value in run.environment.items()
        if name not in ("start", "end", "command_line", "git_commit", "dataset")
    }
    history = [
        {name: value for name, value in record.items() if name not in ("seconds", "examples_per_second")}
        for record in run.history
    ]
    metrics = {name: value for name, value in run.metrics.items() if name != "seconds"}
    config = vars(run.config) | {"output_dir": None}
    return {"environment": environment, "history": history, "metrics": metrics, "config": config}


@pytest.mark.parametrize("student", ["bilstm", "encoder"])
def test_each_run_is_to_the_byte_what_distill_makes_of_its_config_alone(
    config: Make, student: str, cores: int, fresh_cache: Path, cpu: None
) -> None:
    """Random numbers, schedules or rows shared by mistake change every student, and nothing fails."""
    options = ENCODER if student == "encoder" else {}
    together = distill_many(grid(config, "together", **options))
    alone = [distill(one) for one in grid(config, "alone", **options)]
    assert [run.path.name for run in together] == [run.path.name for run in alone]
    for one, other in zip(together, alone, strict=True):
        assert weights(one) == weights(other), one.path.name
        for what, told in facts(one).items():
            for name, value in told.items() if isinstance(told, dict) else enumerate(told):
                assert value == facts(other)[what][name], (one.path.name, what, name)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (one.model_path / name).read_bytes() == (other.model_path / name).read_bytes()
    assert len({weights(run) for run in together}) == 6, "alpha and seed act"


def test_the_fingerprint_of_the_data_does_not_depend_on_the_company(config: Make) -> None:
    """Two runs on the same rows are told to be so by it, and alpha 0 reads no label alone or together."""
    together = distill_many([config("a/0", alpha=0, epochs=1), config("a/1", alpha=1, epochs=1)])
    alone = [distill(config(f"b/{alpha}", alpha=alpha, epochs=1)) for alpha in (0, 1)]
    for one, other in zip(together, alone, strict=True):
        assert one.environment["dataset"] == other.environment["dataset"], one.path.name


def test_the_order_of_the_configs_and_their_company_do_not_matter(
    config: Make, two_cores: None, cpu: None
) -> None:
    """The first student is made before the others, and learns the words: it must not be another for it."""
    forth = {run.path.name: weights(run) for run in distill_many(grid(config, "forth"))}
    back = {run.path.name: weights(run) for run in distill_many(grid(config, "back")[::-1])}
    few = {run.path.name: weights(run) for run in distill_many(grid(config, "few")[2:4])}
    assert forth == back
    assert few == {name: forth[name] for name in few}


def test_students_that_are_trained_in_other_ways_may_go_together(
    config: Make, two_cores: None, cpu: None
) -> None:
    ways: list[dict[str, Any]] = [
        {"epochs": 3, "patience": 1},
        {"batch_size": 4, "gradient_accumulation_steps": 2},
        {"learning_rate": 3e-2, "warmup_ratio": 0.5, "weight_decay": 0.2, "max_grad_norm": 0.01},
    ]
    together = distill_many([config(f"together/{i}", **way) for i, way in enumerate(ways)])
    alone = [distill(config(f"alone/{i}", **way)) for i, way in enumerate(ways)]
    assert [weights(run) for run in together] == [weights(run) for run in alone]


# --- the teachers ------------------------------------------------------------------------------------------


def test_the_teacher_runs_once_for_all_and_a_second_time_not_at_all(
    config: Make, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    """Another pass for each student is what takes longest in a sweep."""
    given, notes = watch_teachers(monkeypatch), Notes()
    distill_many(grid(config, "first"), notes)
    assert given == [8]
    assert any("distinct rows: 0 cached, 8 computed" in note for note in notes.notes)
    given.clear()
    again = Notes()
    distill(config("again", seed=7), again)
    (note,) = [note for note in again.notes if note.startswith("teacher: ")]
    assert "distinct rows: 8 cached" in note and ", 0 computed" in note
    assert given in ([], [8]), "what is read again is only compared"


def test_alpha_1_alone_runs_no_teacher_whatever_the_number_of_seeds(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = watch_teachers(monkeypatch)
    options: dict[str, Any] = {"alpha": 1, "teacher": "/is/not/there", "vocabulary": "words"}
    runs = distill_many([config(f"{seed}", seed=seed, **options) for seed in (1, 2)])
    assert given == [] and all("teachers" not in run.environment for run in runs)


def test_only_runs_that_heard_the_teacher_name_it(config: Make) -> None:
    runs = distill_many(grid(config, "runs"))
    for run in runs:
        assert ("teachers" in run.environment) is (run.config.alpha < 1)


@pytest.fixture(scope="module")
def other_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of other weights, with its classes in the other order."""
    folder = tmp_path_factory.mktemp("other")
    lively(tiny_bert(names=("positive", "negative"), seed=5)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def own_logits(folder: Path) -> Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(row["sentence"], return_tensors="pt")).logits for row in rows()])


@pytest.mark.parametrize("shares", [None, (1, 3), (0.2, 0.05)])
def test_several_teachers_are_heard_as_the_weighted_mean_of_each_ones_logits(
    config: Make,
    teacher_run: Run,
    other_teacher: Path,
    shares: tuple[float, float] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights that do not add up to one, or classes joined by position, would be another mean."""
    given: list[Any] = []
    original = scheduling.fit_into_run
    monkeypatch.setattr(
        scheduling,
        "fit_into_run",
        lambda job, train_rows, *rest: given.append(train_rows) or original(job, train_rows, *rest),
    )
    teachers = (str(teacher_run.path), str(other_teacher))
    run = distill(config(teacher=teachers, teacher_weight=shares or (), epochs=1))
    first, second = own_logits(teacher_run.model_path), own_logits(other_teacher)[:, [1, 0]]
    one = 0.5 if shares is None else shares[0] / sum(shares)
    expected = one * first + (1 - one) * second
    assert (first - second).abs().max() > 1
    torch.testing.assert_close(given[0].teacher_logits, expected, atol=1e-4, rtol=1e-4)
    named = run.environment["teachers"]
    assert [teacher["name"] for teacher in named] == list(teachers)
    assert [teacher["share"] for teacher in named] == pytest.approx([one, 1 - one])
    models = [
        AutoModelForSequenceClassification.from_pretrained(f) for f in (teacher_run.model_path, other_teacher)
    ]
    assert [teacher["fingerprint"] for teacher in named] == [fingerprint(model) for model in models]


def test_each_of_several_teachers_is_kept_apart(
    config: Make, teacher_run: Run, other_teacher: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    """Kept as their mean, a teacher would have to run again for every other company it is in."""
    given = watch_teachers(monkeypatch)
    distill(config("one", teacher=str(other_teacher), epochs=1))
    both = (str(teacher_run.path), str(other_teacher))
    notes = Notes()
    distill(config("both", teacher=both, epochs=1), notes)
    told = [note for note in notes.notes if note.startswith("teacher: ")]
    assert ", 8 computed" in told[0] and both[0] in told[0]
    assert ", 0 computed" in told[1] and both[1] in told[1]
    assert given[:1] == [8] and len(list(fresh_cache.rglob("*"))) > 2


# --- what does not go together -----------------------------------------------------------------------------

OTHERS: dict[str, Any] = {
    "dataset": "imdb",
    "data_dir": Path("elsewhere"),
    "text_column": "sentence",
    "text_pair_column": "sentence",
    "label_column": "label",
    "max_length": 17,
    "max_eval_samples": 3,
    "max_train_samples": 9,
    "class_weights": ("balanced",),
    "recipe": "auto",
    "transfer": ("more.txt",),
    "transfer_ratio": 2.0,
    "teacher": ("another",),
    "teacher_weight": (2.0,),
    "teacher_file": ("answers.jsonl",),
    "targets": "votes",
    "missing": "skip",
    "student": "tinybert",
    "init": "random",
    "layers": 2,
    "hidden_size": 7,
    "vocabulary": "words",
    "vocabulary_size": 99,
    "embedding_size": 7,
    "dropout": 0.2,
    "pooling": "last",
    "word_dropout": 0.1,
    "precision": "bf16",
    "device": "cpu",
}


def test_every_option_of_data_and_model_is_tried_below() -> None:
    shared = [
        name
        for name, info in field_infos(DistillConfig).items()
        if info.json_schema_extra["panel"] in ("Data", "Model", "BiLSTM and static")
        and name != "corpus"  # of `--method general`, which makes one student at a time
    ]
    assert set(OTHERS) == {*shared, *HARDWARE_FIELDS}


@pytest.mark.parametrize("name", OTHERS)
def test_students_of_other_data_or_models_are_refused_by_the_name_of_what_differs(
    config: Make, tmp_path: Path, name: str
) -> None:
    """Data, encoding and logits are shared: what differs there would silently be the first one's."""
    needed: dict[str, Any] = {"transfer_ratio": {"transfer": "more.txt"}}
    needed |= {key: {"teacher_file": "more.jsonl"} for key in ("targets", "missing")}
    first = config("a", **needed.get(name, {}))
    values = {name: OTHERS[name]}
    if name == "student":
        values |= dict.fromkeys(("hidden_size", "embedding_size", "dropout"))
    second = replace_values(first, output_dir=tmp_path / "b", **values)
    for configs in ([first, second], [second, first]):
        with pytest.raises(UserError, match="share --"):
            distill_many(configs)
    with pytest.raises(UserError) as error:
        distill_many([first, second])
    assert "--" + name.replace("_", "-") in str(error.value) or name == "student"
    assert list(tmp_path.iterdir()) == []


def test_two_students_of_one_folder_are_refused(config: Make, tmp_path: Path) -> None:
    """The second would replace the first, or fail after all the work."""
    for second in (tmp_path / "a", tmp_path / "x" / ".." / "a"):
        with pytest.raises(UserError, match="for two students"):
            distill_many([config("a"), replace_values(config("a", seed=2), output_dir=second)])
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_distill_is_a_mistake() -> None:
    with pytest.raises(UserError, match="at least one"):
        distill_many([])


def test_a_folder_that_is_taken_is_refused_before_anything_runs(config: Make, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    notes = Notes()
    with pytest.raises(UserError, match="not empty"):
        distill_many([config("a"), config("b", seed=2)], notes)
    assert notes.notes == [] and [path.name for path in tmp_path.iterdir()] == ["b"]


# --- whole or not at all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["student:", "teacher:", "loss = ", "epoch 1/2", "epoch 2/2"])
@pytest.mark.parametrize("student", ["bilstm", "encoder"])
def test_interrupted_students_leave_nothing_unfinished_behind(
    config: Make, tmp_path: Path, word: str, student: str, two_cores: None
) -> None:
    """A half-written folder looks like a run; one that was finished before is whole and stays."""
    options = ENCODER if student == "encoder" else {}
    configs = grid(config, "deep/down", **options)
    with pytest.raises(KeyboardInterrupt):
        distill_many(configs, Interrupt(word))
    left = [path for path in tmp_path.rglob("*") if ".unfinished" in path.name or ".replaced" in path.name]
    assert left == []
    finished = [one.output_dir for one in configs if one.output_dir.exists()]
    for folder in finished:
        assert len(Run.load(folder).history) == 2
    assert len(finished) < len(configs)
    if not finished:
        assert list(tmp_path.iterdir()) == [], "nor the folders that were made for it"


def test_one_student_that_diverges_lets_the_others_finish(
    config: Make, tmp_path: Path, two_cores: None, cpu: None
) -> None:
    """One learning rate too high must not cost a sweep."""
    configs = [
        config(f"runs/{name}", learning_rate=rate) for name, rate in (("a", 1e-2), ("b", 1e38), ("c", 3e-3))
    ]
    with pytest.raises(UserError, match=r"b: .*finite"):
        distill_many(configs)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a", "c"]
    alone = distill(replace_values(configs[0], output_dir=tmp_path / "alone"))
    assert weights(Run.load(tmp_path / "runs" / "a")) == weights(alone)


def test_the_callers_threads_are_as_before(config: Make, two_cores: None) -> None:
    distill_many(grid(config, "runs")[:2])
    assert torch.get_num_threads() == 2
    distill(config("one"))
    assert torch.get_num_threads() == 2


def test_a_run_says_on_how_many_threads_it_was_trained(config: Make, two_cores: None, cpu: None) -> None:
    """Whoever repeats it on another number gets numbers that differ in the last digits."""
    together = distill_many(grid(config, "runs")[:2])
    alone = distill(config("alone"))
    encoder = distill(config("encoder", **ENCODER))
    assert [run.environment["threads"] for run in together] == [1, 1]
    assert alone.environment["threads"] == 1
    assert encoder.environment["threads"] == 2
    json.dumps(encoder.environment)


def test_the_last_of_several_runs_that_fail_removes_the_folder_that_the_first_one_made(
    tmp_path: Path,
) -> None:
    """Side by side one run makes the parent folder, and another is still in it when that one clears up."""
    first, second = (writing(tmp_path / "new" / name, overwrite=False) for name in "ab")
    first.__enter__()
    second.__enter__()
    for one in (first, second):
        assert not one.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []
