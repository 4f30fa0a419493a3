"""A field is a flag, a YAML key and a Python argument, and all three give the same answer."""

import inspect
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from pydantic import ValidationError
from typer.testing import CliRunner

from distilkit.cli.app import app
from distilkit.config import (
    AugmentConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    FitConfig,
    PredictConfig,
    ReportConfig,
    ServeConfig,
    SweepConfig,
    TrainConfig,
    parse_gates,
    resolve,
)
from distilkit.config.fields import (
    closest,
    dump_values,
    field_infos,
    make_config,
    read_values,
    replace_values,
)
from distilkit.config.loss import choose_soft_loss
from distilkit.errors import UserError
from distilkit.workflows import reporting, training
from distilkit.workflows.augmentation import workflow as augmentation
from distilkit.workflows.diagnosis import workflow as diagnosis
from distilkit.workflows.distillation import workflow as distillation
from distilkit.workflows.evaluation import workflow as evaluation
from distilkit.workflows.prediction import workflow as prediction
from distilkit.workflows.serving import workflow as serving

COMMANDS = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "augment": AugmentConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "serve": ServeConfig,
    "report": ReportConfig,
    "sweep": SweepConfig,
}
RECIPES = sorted((ROOT / "configs").glob("**/*.yaml"))

# Smallest values that each class takes, and one of each with as many fields set as go together.
SMALLEST: list[Any] = [
    TrainConfig(dataset="sst2", output_dir="out"),
    DistillConfig(dataset="mrpc", teacher="t", output_dir="out"),
    DistillConfig(data_dir="data", alpha=1, output_dir="out"),
    DoctorConfig(dataset="sst2", teacher="t"),
    EvaluateConfig(models=("a",), dataset="imdb"),
    AugmentConfig(dataset="sst2", output="new.parquet"),
    PredictConfig(model="a"),
    ReportConfig(runs=("a",)),
    ServeConfig(model="a"),
    ServeConfig(model="a", host="::1", port=0, max_items=8, queue_size=8, wait_ms=0, threads=1),
]
FULL: list[Any] = [
    TrainConfig(
        dataset="imdb",
        data_dir="data",
        text_column="review",
        label_column="stars",
        max_length=77,
        max_eval_samples=5,
        output_dir="out/of the way: ünïcode",
        overwrite=True,
        max_train_samples=6,
        epochs=7,
        batch_size=8,
        gradient_accumulation_steps=9,
        learning_rate=1e-7,
        warmup_ratio=0.25,
        weight_decay=0.5,
        max_grad_norm=2.5,
        patience=3,
        precision="bf16",
        seed=2**32 - 1,
        model="null",
    ),
    DistillConfig(
        data_dir="data",
        text_pair_column="second",
        teacher=("1e-4", "null"),
        teacher_weight=(1, 2.5),
        alpha=0.0,
        alpha_end=0.25,
        soft_loss="kl",
        temperature=1e-1,
        calibrate=False,
        init="random",
        layers=2,
        hidden_size=10,
        vocabulary="teacher",
        embedding_size=11,
        dropout=0.0,
        pooling="max",
        word_dropout=0.25,
        output_dir="out",
    ),
    DistillConfig(
        dataset="sst2", teacher="t", student="tinybert", init="random", hidden_size=24, output_dir="out"
    ),
    DistillConfig(dataset="sst2", teacher="t", vocabulary="teacher", output_dir="out"),
    EvaluateConfig(
        models=("a", "b c"), data_dir="data", split="test", teacher="a", fail_under=("accuracy=0.5", "f1=.1")
    ),
    AugmentConfig(
        data_dir="data",
        text_column="a",
        text_pair_column="b",
        label_column="c",
        output="new.parquet",
        overwrite=True,
        max_train_samples=5,
        variants=3,
        p_mask=0.5,
        p_pos=0.5,
        p_ngram=0,
        max_ngram=2,
        mask_token="<mask>",
        seed=0,
    ),
    AugmentConfig(
        dataset="mrpc",
        output="new.parquet",
        rule="tinybert",
        p_replace=1,
        top_k=2,
        candidates="both",
        mlm="null",
        embeddings="1e-4",
        precision="fp32",
    ),
]
FULL.append(
    PredictConfig(
        model="a",
        inputs=("in.csv", "on.csv"),
        text_column="a",
        text_pair_column="b",
        max_length=9,
        on_error="skip",
        output="out.csv",
        scores=True,
        top_k=2,
        threshold=0.5,
        prefix="our_",
        resume=True,
        overwrite=True,
        threads=2,
        precision="fp32",
        device="cpu",
    )
)
TRAINING = [config for config in SMALLEST + FULL if isinstance(config, FitConfig)]


def _name(config: Any) -> str:
    return type(config).__name__


class Asked(Exception):
    """Carries the config that a command handed to its workflow."""


def config_of(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Any:
    """The config that `distilkit ARGUMENTS` would run with."""

    monkeypatch.setattr("distilkit.cli.paths.check_paths", lambda config: None)  # the teachers are not there

    def stop(config: Any, *_: Any) -> None:
        raise Asked(config)

    verbs = {training: "train", distillation: "distill", augmentation: "augment", evaluation: "evaluate"}
    verbs[diagnosis] = "doctor"
    verbs[reporting] = "report"
    verbs[prediction] = "predict"
    verbs[serving] = "serve"
    for module, verb in verbs.items():
        monkeypatch.setattr(module, verb, stop)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, Asked), result.output or result.exception
    return result.exception.args[0]


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("dataset: mrpc\nteacher: t\noutput_dir: from-file\nepochs: 4\nalpha: 0.25\nseed: 7\n")
    config = config_of(monkeypatch, "distill", "-c", file, "--alpha", "0.75", "-o", "typed")
    assert (config.alpha, config.output_dir) == (0.75, Path("typed"))
    assert (config.epochs, config.seed, config.dataset) == (4, 7, "mrpc")
    assert (config.batch_size, config.weight_decay) == (None, 0.01)


def test_a_flag_that_is_typed_with_its_default_still_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--seed 42` after a file that says 7 must not be taken for "not typed"."""
    file = tmp_path / "c.yaml"
    file.write_text("dataset: sst2\noutput_dir: out\nseed: 7\nprecision: bf16\n")
    config = config_of(monkeypatch, "train", "-c", file, "--seed", "42", "--precision", "auto")
    assert (config.seed, config.precision) == (42, "auto")


def test_models_and_gates_of_the_file_are_replaced_by_typed_ones_and_else_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("models: [a, b]\ndataset: sst2\nfail_under: accuracy=0.5\n")
    kept = config_of(monkeypatch, "evaluate", "-c", file)
    assert (kept.models, kept.fail_under) == (("a", "b"), ("accuracy=0.5",))
    typed = config_of(
        monkeypatch, "evaluate", "c", "-c", file, "--fail-under", "f1=0.1", "--fail-under", "accuracy=0.2"
    )
    assert (typed.models, typed.fail_under) == (("c",), ("f1=0.1", "accuracy=0.2"))


@pytest.mark.parametrize(
    ("given", "read"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), (("b", "a"), ("b", "a")), (None, ()), ([], ())],
)
def test_a_teacher_may_be_one_or_several_or_none(given: Any, read: tuple[str, ...]) -> None:
    """A single name taken letter by letter, or teachers in another order than their weights, go unseen."""
    config = DistillConfig(dataset="sst2", teacher=given, alpha=1, output_dir="o")
    assert config.teacher == read


def test_teachers_and_weights_are_typed_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight belongs to the teacher in its place: another order is another mean."""
    typed = ["-t", "b", "--teacher-weight", "3", "--teacher", "a", "--teacher-weight", "0.5"]
    config = config_of(monkeypatch, "distill", "-d", "sst2", "-o", "out", *typed)
    assert (config.teacher, config.teacher_weight) == (("b", "a"), (3.0, 0.5))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"teacher": ["a", "b", "a"]}, ("--teacher a", "twice")),
        ({"teacher": ["a", "b"], "teacher_weight": [1]}, ("--teacher-weight", "1 given for 2")),
        ({"teacher": "a", "teacher_weight": [1, 2]}, ("--teacher-weight", "2 given for 1")),
        ({"teacher": ["a", "b"], "teacher_weight": [1, 0]}, ("--teacher-weight 0",)),
        ({"teacher": ["a", "b"], "teacher_weight": [-1, 2]}, ("--teacher-weight -1",)),
        ({"teacher": ["a", ""]}, ("--teacher",)),
    ],
)
def test_teachers_that_make_no_mean_are_refused(values: dict[str, Any], named: tuple[str, ...]) -> None:
    """A weight of zero, or one for nobody, would be a mean of other teachers than were named."""
    with pytest.raises(UserError) as error:
        make_config(DistillConfig, {"dataset": "sst2", "output_dir": "o"} | values)
    for text in named:
        assert text in str(error.value)


def test_doctor_takes_a_distill_command_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would look at another student than the one that is made."""
    typed = ["-d", "sst2", "-t", "t", "-o", "out", "--student", "tinybert", "--init", "random", "-b", "7"]
    checked = config_of(monkeypatch, "doctor", *typed)
    made = config_of(monkeypatch, "distill", *typed)
    names = field_infos(DistillConfig)
    assert list(field_infos(DoctorConfig)) == list(names)
    assert all(getattr(resolve(checked), name) == getattr(resolve(made), name) for name in names)


def test_defaults_are_the_documented_ones_when_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(monkeypatch, "distill", "-d", "sst2", "-t", "t", "-o", "out")
    assert config == DistillConfig(dataset="sst2", teacher="t", output_dir=Path("out"))
    assert (config.alpha, config.student, config.seed, config.precision) == (0.5, "bilstm", 42, "auto")


def test_learning_rate_1e4_which_yaml_reads_as_text_becomes_a_number(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("dataset: sst2\noutput_dir: out\nlearning_rate: 1e-4\nweight_decay: 1e-2\n")
    assert read_values(file)["learning_rate"] == "1e-4"
    config = make_config(TrainConfig, read_values(file))
    assert type(config.learning_rate) is float and config.learning_rate == 1e-4
    assert type(config.weight_decay) is float and config.weight_decay == 0.01


@pytest.mark.parametrize("config", SMALLEST + FULL, ids=_name)
def test_a_dumped_config_reads_back_equal(config: Any, tmp_path: Path) -> None:
    """Else repeating a run from its config.yaml would train something else."""
    file = tmp_path / "config.yaml"
    file.write_text(dump_values(config), encoding="utf-8")
    assert make_config(type(config), read_values(file)) == config


@pytest.mark.parametrize("config", TRAINING, ids=_name)
def test_a_resolved_config_reads_back_equal_and_resolving_it_again_changes_nothing(
    config: Any, tmp_path: Path
) -> None:
    resolved = resolve(config)
    file = tmp_path / "config.yaml"
    file.write_text(dump_values(resolved), encoding="utf-8")
    again = make_config(type(config), read_values(file))
    assert again == resolved
    assert resolve(again) == resolved


@pytest.mark.parametrize("config", TRAINING, ids=_name)
def test_resolve_keeps_what_was_given_and_leaves_no_training_option_open(config: Any) -> None:
    resolved = resolve(config)
    for name in field_infos(type(config)):
        if getattr(config, name) is not None:
            assert getattr(resolved, name) == getattr(config, name), name
    assert all(getattr(resolved, name) is not None for name in (*FitConfig.default_texts(), "max_length"))


def test_resolve_gives_a_pair_the_wide_bilstm_and_imdb_the_long_input() -> None:
    pair = resolve(DistillConfig(dataset="mrpc", teacher="t", output_dir="o"))
    own_pair = resolve(DistillConfig(data_dir="d", text_pair_column="b", teacher="t", output_dir="o"))
    single = resolve(DistillConfig(dataset="imdb", teacher="t", output_dir="o"))
    assert (pair.hidden_size, own_pair.hidden_size, single.hidden_size) == (300, 300, 150)
    assert (pair.max_length, single.max_length) == (128, 256)


def test_resolve_lets_a_bilstm_pool_both_ways_and_no_other_student_at_all() -> None:
    bilstm = resolve(DistillConfig(dataset="sst2", teacher="t", output_dir="o"))
    other = resolve(DistillConfig(dataset="sst2", teacher="t", student="tinybert", output_dir="o"))
    assert (bilstm.pooling, other.pooling) == ("both", None)


def test_a_bilstm_from_the_teachers_embeddings_has_no_width_of_its_own() -> None:
    resolved = resolve(DistillConfig(dataset="sst2", teacher="t", vocabulary="teacher", output_dir="o"))
    assert (resolved.init, resolved.embedding_size, resolved.vocabulary_size) == ("teacher", None, None)


@pytest.mark.parametrize(
    ("config_type", "misspelt", "meant"),
    [
        (TrainConfig, "max_seq_lenght", None),
        (TrainConfig, "max_lenght", "max_length"),
        (TrainConfig, "epoch", "epochs"),
        (DistillConfig, "alfa", "alpha"),
        (DistillConfig, "temperatur", None),
        (EvaluateConfig, "fail-under", "fail_under"),
        (EvaluateConfig, 3, None),
    ],
)
def test_a_misspelt_key_is_an_error_and_not_a_default_that_never_acts(
    config_type: Any, misspelt: Any, meant: str | None, tmp_path: Path
) -> None:
    """TinyBERT wrote its default_params to misspelt attributes, so that they never acted."""
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"dataset": "sst2", misspelt: 1}))
    with pytest.raises(UserError) as error:
        make_config(config_type, read_values(file), source=str(file))
    message = str(error.value)
    assert repr(misspelt) in message and str(file) in message
    if meant:
        assert f"Did you mean {meant!r}?" in message


def test_a_misspelt_python_argument_is_an_error() -> None:
    with pytest.raises(UserError, match="Did you mean 'alpha'"):
        DistillConfig(dataset="sst2", output_dir="o", teacher="t", alfa=0.1)  # type: ignore[call-arg]


def test_errors_of_a_python_call_name_python_arguments() -> None:
    """Nobody types `--batch-size` in a script; the command line and its files keep their own names."""
    with pytest.raises(UserError, match=r"^batch_size 0: ") as error:
        TrainConfig(dataset="sst2", output_dir="o", batch_size=0)
    assert "--" not in str(error.value)
    with pytest.raises(UserError, match=r"^temperature 2 is for soft_loss kl"):
        DistillConfig(dataset="sst2", output_dir="o", teacher="t", temperature=2)
    with pytest.raises(UserError, match=r"^output_dir is missing"):
        DistillConfig()  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"'alfa' is not an option of DistillConfig"):
        DistillConfig(alfa=1)  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"^--batch-size 0: "):
        make_config(TrainConfig, {"dataset": "sst2", "output_dir": "o", "batch_size": 0})


@pytest.mark.parametrize(
    ("value", "meant"),
    [("SST2", "sst2"), ("sst-2", "sst2"), ("rotten", "rotten_tomatoes"), ("imbd", "imdb"), ("xyz", None)],
)
def test_a_misspelt_value_is_answered_by_the_one_that_is_meant(value: str, meant: str | None) -> None:
    with pytest.raises(UserError) as error:
        TrainConfig(dataset=value, output_dir="o")  # type: ignore[arg-type]
    assert str(error.value).endswith(f"Did you mean {meant}?" if meant else "'rotten_tomatoes'")


def test_the_beginning_of_a_name_counts_for_more_than_similar_letters() -> None:
    """`acc` has as many letters of `mcc` as of `accuracy`, and means only one of them."""
    assert closest("acc", ("f1", "mcc", "accuracy")) == "accuracy"
    assert closest("acuracy", ("mcc", "accuracy")) == "accuracy"
    assert closest("a", ("accuracy",)) is None


def test_a_student_in_other_letters_is_no_hub_id() -> None:
    with pytest.raises(UserError, match="student BiLSTM: write it as bilstm"):
        DistillConfig(dataset="sst2", output_dir="o", teacher="t", student="BiLSTM")


def test_help_explains_every_field_in_python_names() -> None:
    documented = inspect.getdoc(DistillConfig) or ""
    for name in field_infos(DistillConfig):
        assert f"\n    {name}: " in documented
    assert "unless data_dir is given" in documented
    assert "{" not in documented, "a default was not filled in"


BILSTM_ONLY = {
    "vocabulary": "words",
    "vocabulary_size": 100,
    "embedding_size": 10,
    "dropout": 0.2,
    "pooling": "max",
    "word_dropout": 0.0,
}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        *[
            ({"student": student, name: value}, ("--" + name.replace("_", "-"), student))
            for student in ("tinybert", "distilbert", "some/encoder")
            for name, value in BILSTM_ONLY.items()
        ],
        ({"student": "static", "pooling": "max"}, ("--pooling", "bilstm", "not static")),
        ({"student": "static", "layers": 2}, ("--layers 2", "static")),
        ({"student": "static", "init": "pretrained"}, ("--init pretrained", "static")),
        ({"student": "static", "method": "tinybert"}, ("--method tinybert", "a static has none")),
        ({"student": "static", "vocabulary": "teacher", "teacher": None, "alpha": 1}, ("--teacher",)),
        ({"student": "static", "init": "teacher", "teacher": None, "alpha": 1}, ("--teacher",)),
        ({"student": "Static"}, ("--student Static", "write it as static")),
        ({"student": "tinybert", "hidden_size": 96}, ("--hidden-size 96", "--init random")),
        ({"student": "distilbert", "init": "teacher", "hidden_size": 96}, ("--hidden-size 96",)),
        ({"init": "pretrained"}, ("--init pretrained", "bilstm")),
        ({"init": "teacher", "vocabulary_size": 9}, ("--init teacher", "--vocabulary teacher")),
        ({"init": "teacher", "vocabulary": "words"}, ("--init teacher", "--vocabulary teacher")),
        ({"vocabulary": "teacher", "vocabulary_size": 9}, ("--vocabulary-size", "--vocabulary words")),
        ({"vocabulary": "teacher", "teacher": None, "alpha": 1}, ("--vocabulary teacher", "--teacher")),
        ({"student": "tinybert", "init": "teacher", "teacher": None, "alpha": 1}, ("--init teacher",)),
        ({"temperature": 3}, ("--temperature 3", "--soft-loss kl")),
        ({"temperature": 3, "soft_loss": "mse"}, ("--temperature 3", "--soft-loss kl")),
        ({"teacher": None}, ("alpha 0.5", "--teacher", "--teacher-file")),
        ({"targets": "votes"}, ("--targets votes", "--teacher-file")),
        ({"missing": "skip"}, ("--missing skip", "--teacher-file")),
        ({"teacher_file": ("a.csv", "a.csv")}, ("--teacher-file a.csv", "twice")),
        (
            {"teacher_file": "a.csv", "teacher_weight": 1},
            ("--teacher-weight", "2 teachers", "--teacher-file"),
        ),
        ({"teacher_file": "a.csv", "soft_loss": "mse", "temperature": 2}, ("--temperature 2", "kl")),
        ({"teacher_file": "a.csv", "student": "tinybert", "method": "pkd"}, ("--method pkd", "a.csv")),
        ({"teacher_file": "a.csv", "targets": "odds"}, ("--targets 'odds'", "probabilities")),
        ({"teacher": None, "alpha": 0}, ("alpha 0", "--teacher")),
    ],
)
def test_an_option_that_would_do_nothing_for_the_student_is_refused(
    values: dict[str, Any], named: tuple[str, ...]
) -> None:
    base = {"dataset": "sst2", "teacher": "t", "output_dir": "out"}
    with pytest.raises(UserError) as error:
        make_config(DistillConfig, base | values)
    for text in named:
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("start", "end", "labels", "teacher"),
    [
        (0, None, False, True),
        (1, None, True, False),
        (0.5, None, True, True),
        (0, 0, False, True),
        (1, 1, True, False),
        (0, 1, True, True),
        (1, 0, True, True),
        (0, 0.1, True, True),
        (1, 0.9, True, True),
    ],
)
def test_labels_and_teacher_are_there_where_alpha_ever_weighs_them(
    start: float, end: float | None, labels: bool, teacher: bool
) -> None:
    config = DistillConfig(dataset="sst2", teacher="t", output_dir="out", alpha=start, alpha_end=end)
    assert (config.reads_labels, config.runs_teacher) == (labels, teacher)


def test_only_the_kl_has_a_temperature() -> None:
    base = {"dataset": "sst2", "teacher": "t", "output_dir": "out"}
    found = [
        resolve(DistillConfig(**base, **options)).temperature
        for options in ({}, {"soft_loss": "kl"}, {"soft_loss": "kl", "temperature": 5})
    ]
    assert found == [None, 2, 5]


def test_a_resolved_config_of_the_general_method_is_taken_again() -> None:
    """A run's config.yaml, which has the soft loss of all runs, repeats it; a KL is still refused."""
    base: dict[str, Any] = {"teacher": "t", "corpus": "a.txt", "method": "general", "student": "tinybert"}
    config = resolve(DistillConfig(**base, output_dir="out"))
    assert config.soft_loss == "mse" and DistillConfig(**dict(config)) == config
    with pytest.raises(UserError, match=r"^soft_loss means nothing"):
        DistillConfig(**base, output_dir="out", soft_loss="kl")


def test_what_a_teacher_file_holds_decides_the_soft_loss_where_none_is_given() -> None:
    """Until the file is read neither is known; a loss that is given stands."""
    base = {"dataset": "sst2", "teacher_file": "a.csv", "output_dir": "out"}
    for options, logits, probabilities in (
        ({}, ("mse", None), ("kl", 1)),
        ({"soft_loss": "kl"}, ("kl", 2), ("kl", 1)),
        ({"soft_loss": "kl", "temperature": 3}, ("kl", 3), ("kl", 3)),
    ):
        config = resolve(DistillConfig(**base, **options))
        assert config.soft_loss == dict(options).get("soft_loss")
        for has_logits, expected in ((True, logits), (False, probabilities)):
            chosen = choose_soft_loss(config, has_logits=has_logits)
            assert (chosen.soft_loss, chosen.temperature) == expected
    assert resolve(DistillConfig(**base, alpha=1)).soft_loss == "mse"
    with pytest.raises(UserError, match="--temperature 3 is for --soft-loss kl"):
        choose_soft_loss(DistillConfig(**base, temperature=3), has_logits=True)


def test_every_bad_value_is_named_and_not_the_first_alone() -> None:
    with pytest.raises(UserError) as error:
        make_config(TrainConfig, {"dataset": "sst3", "epochs": 0, "seed": -1, "output_dir": "o"})
    message = str(error.value)
    for text in ("--dataset 'sst3'", "--epochs 0", "--seed -1"):
        assert text in message


def test_a_config_is_frozen_so_that_what_is_saved_is_what_was_run() -> None:
    config = TrainConfig(dataset="sst2", output_dir="o")
    with pytest.raises(ValidationError, match="Instance is frozen"):
        config.seed = 1  # type: ignore[misc]
    assert replace_values(config, seed=1).seed == 1 and config.seed == 42
    with pytest.raises(UserError, match=r"--seed -1: .*greater than or equal to 0"):
        replace_values(config, seed=-1)


def test_gates_are_read_as_metric_and_threshold() -> None:
    assert parse_gates(("accuracy=0.85", "f1=1e-1"), "--fail-under") == (("accuracy", 0.85), ("f1", 0.1))


@pytest.mark.parametrize(
    "gate", ["accuracy", "accuracy=", "accuracy=high", "accuracy=nan", "accuracy=inf", "loss=1"]
)
def test_a_gate_that_could_never_fail_or_never_hold_is_refused(gate: str) -> None:
    with pytest.raises(ValueError, match=f"--fail-under {gate}"):
        parse_gates((gate,), "--fail-under")


def test_a_rule_has_its_own_defaults_and_pairs_fewer_variants() -> None:
    """The papers' settings: Tang et al. 2019, section 3.3; Jiao et al. 2020, algorithm 1."""
    single = resolve(AugmentConfig(dataset="sst2", output="a.parquet"))
    pair = resolve(AugmentConfig(dataset="mrpc", output="a.parquet"))
    assert (single.variants, pair.variants) == (20, 10)
    assert (single.p_mask, single.p_pos, single.p_ngram, single.max_ngram) == (0.1, 0.1, 0.25, 5)
    assert (single.mask_token, single.p_replace, single.mlm, single.embeddings) == (
        "[MASK]",
        None,
        None,
        None,
    )
    bert = resolve(AugmentConfig(dataset="mrpc", rule="tinybert", mlm="m", output="a.parquet"))
    assert (bert.variants, bert.p_replace, bert.top_k, bert.p_mask) == (20, 0.4, 15, None)
    assert (bert.candidates, bert.mlm, bert.embeddings) == ("both", "m", "m")
    assert resolve(bert) == bert


@pytest.mark.parametrize(
    ("values", "named"),
    [
        *[
            ({"rule": "tinybert", name: value}, ("--" + name.replace("_", "-"), "--rule tang"))
            for name, value in {"p_mask": 0.1, "p_pos": 0.1, "p_ngram": 0, "max_ngram": 5}.items()
        ],
        ({"rule": "tinybert", "mask_token": "[MASK]"}, ("--mask-token", "--rule tang")),
        ({"p_replace": 0.4}, ("--p-replace", "--rule tinybert")),
        ({"top_k": 15}, ("--top-k", "--rule tinybert")),
        ({"candidates": "both"}, ("--candidates", "--rule tinybert")),
        ({"mlm": "m"}, ("--mlm", "--rule tinybert")),
        ({"embeddings": "e"}, ("--embeddings", "--rule tinybert")),
        ({"precision": "fp32"}, ("--precision", "--rule tinybert")),
        ({"rule": "tinybert", "candidates": "mlm", "embeddings": "e"}, ("--embeddings", "not mlm")),
        ({"rule": "tinybert", "candidates": "embeddings", "mlm": "m"}, ("--mlm", "not embeddings")),
        ({"rule": "tinybert", "candidates": "embeddings"}, ("--candidates embeddings", "--embeddings")),
        ({"p_mask": 0.6, "p_pos": 0.5}, ("--p-mask 0.6", "--p-pos 0.5")),
        ({"p_mask": 0.95}, ("--p-mask 0.95", "--p-pos 0.1")),
        ({"p_mask": 1.5}, ("--p-mask 1.5",)),
        ({"mask_token": "a b"}, ("--mask-token 'a b'", "one word")),
        ({"output": "new.csv"}, ("--output new.csv", ".parquet")),
        ({"max_length": 128}, ("'max_length'",)),
    ],
)
def test_an_option_that_means_nothing_for_the_rule_is_refused(
    values: dict[str, Any], named: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as error:
        make_config(AugmentConfig, {"dataset": "sst2", "output": "new.parquet"} | values)
    for text in named:
        assert text in str(error.value)


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT / "configs")))
def test_a_recipe_is_taken_by_the_command_that_its_first_line_says(
    file: Path,
) -> None:
    """Else a renamed option breaks recipes that nobody runs until a reader copies one."""
    words = shlex.split(file.read_text(encoding="utf-8").splitlines()[0])
    assert words[:2] == ["#", "distilkit"], words
    assert words[3:] == ["--config", str(file.relative_to(ROOT))]
    config: Any = make_config(COMMANDS[words[2]], read_values(file), source=str(file))
    if isinstance(config, FitConfig):
        resolve(config)


@pytest.mark.parametrize(
    ("values", "vocabulary"),
    [
        ({}, "teacher"),
        ({"alpha": 1}, "teacher"),  # as at any other alpha: a sweep compares one network with itself
        ({"init": "random"}, "words"),
        ({"vocabulary_size": 9}, "words"),
        ({"teacher": None, "alpha": 1}, "words"),
        ({"init": "random", "vocabulary": "teacher"}, "teacher"),
    ],
)
def test_a_bilstm_takes_the_vectors_of_the_teacher_that_is_named(
    values: dict[str, Any], vocabulary: str
) -> None:
    """benchmarks/QUALITY.md: they are worth two points over words of the data."""
    resolved = resolve(DistillConfig(**({"dataset": "sst2", "teacher": "t", "output_dir": "o"} | values)))
    taken = vocabulary == "teacher" and values.get("init") != "random"
    assert (resolved.vocabulary, resolved.init) == (vocabulary, "teacher" if taken else "random")


LATE = """
import distilkit.cli.app
from distilkit.config import ReportConfig
from distilkit.errors import UserError

for _ in range(2):
    print(ReportConfig.__pydantic_complete__)
    for mistake in ({"runs": ()}, {"run": "a"}):
        try:
            ReportConfig(**mistake)
        except UserError as error:
            print(error)
"""


def test_a_class_builds_its_checks_when_it_is_first_used_and_says_the_same_then_as_later() -> None:
    """Help waits for no checks; building them must not undo what makes of a mistake one clear error."""
    result = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)
    built, *first, built_by_then, empty, unknown = result.stdout.splitlines()
    assert (built, built_by_then) == ("False", "True")
    assert first == [empty, unknown]
    assert "runs ()" in empty and "Did you mean 'runs'?" in unknown


def test_a_class_that_was_not_used_yet_shows_what_it_takes() -> None:
    """In `help` and notebooks."""
    code = (
        "import inspect; from distilkit import TrainConfig; print(*inspect.signature(TrainConfig).parameters)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(result.stdout.split()) == sorted(field_infos(TrainConfig))


THREADS = """
import sys, threading
from distilkit import DistillConfig

sys.setswitchinterval(1e-6)
said = []

def make():
    try:
        DistillConfig(alpha=7, dataset="sst2", teacher="t", output_dir="o")
    except Exception as error:
        said.append(type(error).__name__)

threads = [threading.Thread(target=make) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*said)
"""


def test_threads_that_use_a_class_first_at_once_get_the_same_error() -> None:
    result = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["UserError"] * 16
