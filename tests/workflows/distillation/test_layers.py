"""`distill --method tinybert|pkd`: layers are matched with the teacher's, and nothing of that stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, MakeModel, Notes, family, tiny_bert, tiny_tokenizer, weights
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from distilkit import DistillConfig, UserError, distill
from distilkit.config import resolve
from distilkit.config.fields import make_config, read_values
from distilkit.engine.training.layers import LayerPair, Projected
from distilkit.models.loading import fingerprint, save_model
from distilkit.runs.run import Run
from distilkit.workflows.distillation import inputs
from distilkit.workflows.distillation.workflow import distill_many
from distilkit.workflows.fitting import fit

LAYERS = {"layer_epochs": 2, "layer_learning_rate": 1e-3}


@pytest.fixture(scope="session")
def narrow_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers, narrower than the teacher, with as many heads and its tokenizer."""
    folder = tmp_path_factory.mktemp("narrow")
    torch.manual_seed(1)
    shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=tiny_bert().config.vocab_size, max_position_embeddings=64, **shape)
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def config(sst2_dir: Path, teacher_run: Run, narrow_dir: Path, tmp_path: Path) -> Any:
    """`config(**options)`: a quick `DistillConfig` of a student narrower than its teacher."""

    def make(method: str = "tinybert", **options: Any) -> DistillConfig:
        known: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": sst2_dir, "epochs": 1}
        known |= {"teacher": str(teacher_run.path), "output_dir": tmp_path / "run", "learning_rate": 1e-3}
        known |= LAYERS if method == "tinybert" else {}
        return DistillConfig(method=method, **(known | {"student": str(narrow_dir)} | options))

    return make


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[LayerPair]:
    """Every pair of student and teacher made during the test."""
    made: list[LayerPair] = []
    ordinary = inputs.pair_layers

    def watched(*arguments: Any) -> LayerPair:
        made.append(ordinary(*arguments))
        return made[-1]

    monkeypatch.setattr(inputs, "pair_layers", watched)
    return made


Gradients = dict[str, Tensor]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.nn.Module, Gradients]]:
    """Every module that `fit` was given, with the first gradient of each of its parameters."""
    seen: list[tuple[torch.nn.Module, Gradients]] = []
    ordinary = fit.fit

    def keep(gradients: Gradients, name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            gradients.setdefault(name, gradient.clone())

        return hook

    def watched(learner: Any, *arguments: Any, **options: Any) -> Any:
        model, gradients = learner.students[0], Gradients()
        seen.append((model, gradients))
        hooks = [p.register_hook(keep(gradients, name)) for name, p in model.named_parameters()]
        yield from ordinary(learner, *arguments, **options)
        for hook in hooks:
            hook.remove()

    monkeypatch.setattr(fit, "fit", watched)
    # What updates a word table by the row has its gradients elsewhere than at the table's parameter.
    monkeypatch.setattr(fit, "_sparse_tables", lambda *arguments: [])
    return seen


def reached(gradients: Gradients) -> set[str]:
    return {name for name, gradient in gradients.items() if gradient.any()}


# --- what is trained ---------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter_in_each_stage(config: Any, trained: Any) -> None:
    """A part that no loss reaches stays as random as it began, and nothing would say so.

    The first stage ends before pooler and head; the second reaches all.
    """
    distill(config())
    (projected, first), (student, second) = trained
    assert isinstance(projected, Projected) and projected.student is student
    everything = {name for name, _ in student.named_parameters()}
    behind = {name for name in everything if name.startswith(("bert.pooler", "classifier"))}
    assert len(behind) == 4
    assert reached(first) == {f"student.{name}" for name in everything - behind} | {"projection.weight"}
    assert not {f"student.{name}" for name in behind} & set(first)
    assert reached(second) == everything


def test_gradients_reach_every_parameter_with_pkd(config: Any, trained: Any) -> None:
    distill(config("pkd", alpha=0.5))
    ((projected, gradients),) = trained
    assert reached(gradients) == {name for name, _ in projected.named_parameters()}


def test_the_projection_is_trained_and_not_saved(config: Any, pairs: list[LayerPair]) -> None:
    """Left untrained, states would be matched through noise; saved, the student would load nowhere."""
    began: list[Tensor] = []

    def stop(task: str, done: int, total: int, detail: str = "") -> None:
        if pairs and not began:
            began.append(pairs[0].student.projection.weight.detach().clone())  # type: ignore[operator, union-attr]

    reporter = Notes()
    reporter.advance = stop  # type: ignore[method-assign]
    run = distill(config(), reporter)
    (pair,) = pairs
    weight: Any = pair.student.projection.weight
    assert weight.shape == (24, 12) and not torch.equal(weight, began[0])
    saved = load_file(run.model_path / "model.safetensors")
    model = AutoModelForSequenceClassification.from_pretrained(run.model_path)
    assert set(saved) == set(model.state_dict())
    assert run.metrics["parameters"] == sum(values.numel() for values in saved.values())
    assert "distilkit" not in (run.model_path / "config.json").read_text()


@pytest.mark.parametrize("method", ["tinybert", "pkd"])
def test_the_teacher_runs_in_eval_mode_without_gradient_and_is_not_changed(
    config: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TinyBERT's released script leaves its teacher in train mode: dropout makes its targets noise."""
    modes, prints = set(), set()
    ordinary = inputs.pair_layers

    def watched(*arguments: Any) -> LayerPair:
        pair = ordinary(*arguments)
        assert not pair.teacher.training

        def hook(module: Any, inputs: Any, output: Any) -> None:
            if output.hidden_states is None:  # its logits are computed for the cache
                return
            training = any(part.training for part in module.modules())
            modes.add((training, torch.is_grad_enabled(), output.hidden_states[-1].requires_grad))
            prints.add(fingerprint(module))

        pair.teacher.register_forward_hook(hook)
        return pair

    monkeypatch.setattr(inputs, "pair_layers", watched)
    distill(config(method))
    assert modes == {(False, False, False)}
    assert len(prints) == 1


def test_the_student_trains_in_train_mode_in_both_stages(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring the layers after an epoch must not leave it without dropout for the next."""
    modes: list[bool] = []
    ordinary = LayerPair.forward

    def watched(self: LayerPair, student: Any, batch: Any) -> Any:
        modes.append(student.training)
        return ordinary(self, student, batch)

    monkeypatch.setattr(LayerPair, "forward", watched)
    distill(config(batch_size=16, layer_epochs=2))
    assert modes == [True, False] * 2


# --- what comes of it --------------------------------------------------------------------------------------


def test_both_stages_are_on_record_and_the_second_starts_from_the_firsts_best(
    config: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every epoch a line; the run's metrics are the second stage's."""
    notes, scores = Notes(), iter([3.0, 1.0, 2.0])
    states: list[dict[str, Tensor]] = []

    def scored(self: LayerPair, rows: Any, precision: Any) -> dict[str, float]:
        states.append({name: value.clone() for name, value in self.student.student.state_dict().items()})
        return {"layer_loss": next(scores)}

    monkeypatch.setattr(LayerPair, "score", scored)
    ordinary = fit.fit

    def watched(learner: Any, *arguments: Any, **options: Any) -> Any:
        model = learner.students[0]
        if not isinstance(model, Projected):
            states.append({name: value.clone() for name, value in model.state_dict().items()})
        yield from ordinary(learner, *arguments, **options)

    monkeypatch.setattr(fit, "fit", watched)
    run = distill(config(layer_epochs=3, epochs=2), notes)
    assert [line["stage"] for line in run.history] == ["layers"] * 3 + ["logits"] * 2
    assert [line["epoch"] for line in run.history] == [1, 2, 3, 1, 2]
    assert [line["improved"] for line in run.history[:3]] == [True, True, False]
    assert all(line["layer_loss"] == line["loss"] for line in run.history[:3])
    assert all(line["layer_loss"] is None for line in run.history[3:])
    assert run.metrics["metric"] == "accuracy" and run.metrics["best_epoch"] in (1, 2)
    told = [note for note in notes.notes if "epoch " in note]
    assert told[0].startswith("layers: epoch 1/3") and told[3].startswith("logits: epoch 1/2")
    assert "best so far" in told[1] and "best so far" not in told[2]
    for name, value in states[3].items():
        torch.testing.assert_close(value, states[1][name])
    assert any(not torch.equal(states[2][name], states[1][name]) for name in states[1])


def test_the_first_stage_brings_layers_nearer_at_a_constant_rate(config: Any, teacher_run: Run) -> None:
    """On the validation split too, whose losses are in the record part by part."""
    run = distill(config(layer_epochs=8, layer_learning_rate=5e-3, init="random"))
    lines = [line for line in run.history if line["stage"] == "layers"]
    first, last = (line["validation"] for line in (lines[0], lines[-1]))
    assert set(first) == {"layer_loss", "embedding_loss", "hidden_loss", "attention_loss"}
    assert first["layer_loss"] == pytest.approx(sum(first.values()) - first["layer_loss"])
    assert last["layer_loss"] < 0.8 * first["layer_loss"]
    assert {line["learning_rate"] for line in lines[2:]} == {5e-3}


def test_a_student_that_is_the_teacher_has_nothing_to_match(config: Any, teacher_run: Run) -> None:
    """All its layers, as they are: whatever the first stage found to learn would be a mistake."""
    run = distill(
        config(student=str(teacher_run.path), init="teacher", layer_learning_rate=1e-9, weight_decay=0.0)
    )
    assert run.history[0]["validation"]["layer_loss"] < 1e-8
    assert run.environment["matched_layers"] == [1, 2]


def test_a_distilbert_learns_from_a_bert_which_still_reads_its_segments(
    mrpc_dir: Path, make_bert: MakeModel, tmp_path: Path, pairs: list[LayerPair]
) -> None:
    """The student takes no segments. A teacher without them would read a pair as one text."""
    teacher = make_bert(names=("not_equivalent", "equivalent"), layers=3)
    read: set[frozenset[str]] = set()
    ordinary = LayerPair.forward

    def watched(self: LayerPair, student: Any, batch: Any) -> Any:
        read.add(frozenset(batch))
        assert batch["token_type_ids"].any()
        return ordinary(self, student, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerPair, "forward", watched)
        for method, own in (("tinybert", LAYERS), ("pkd", {})):
            run = distill(
                DistillConfig(
                    **QUICK | {"epochs": 1, "dataset": "mrpc", "data_dir": mrpc_dir, "max_length": 24},
                    teacher=str(teacher),
                    student="distilbert",
                    init="teacher",
                    layers=2,
                    method=method,
                    output_dir=tmp_path / method,
                    **own,
                )
            )
            assert run.environment["student"]["class"] == "DistilBertForSequenceClassification"
    assert read
    assert pairs[0].layer_map == [1, 3] and pairs[1].layer_map == [1]


def test_pkd_adds_beta_times_the_patient_loss(config: Any, tmp_path: Path) -> None:
    """In what it trains on, what it logs and what it prints."""
    run = distill(config("pkd", alpha=0.25, beta=10))
    line = run.history[0]
    total = 0.25 * line["hard_loss"] + 0.75 * line["soft_loss"] + 10 * line["layer_loss"]
    assert line["loss"] == pytest.approx(total, rel=1e-4) and line["layer_loss"] > 0
    assert "stage" not in line
    assert run.environment["loss"].endswith("+ 10 * MSE(normalised [CLS] of layers 1-1)")
    assert run.environment["matched_layers"] == [1]
    plain = distill(config("logits", alpha=0.25, output_dir=tmp_path / "plain"))
    assert weights(plain) != weights(run)


def test_the_same_config_gives_the_same_student_also_beside_others(config: Any, tmp_path: Path) -> None:
    """The projection draws from the same random numbers wherever the student stands in the row."""
    together = distill_many(
        [
            config(output_dir=tmp_path / "one", seed=1),
            config(output_dir=tmp_path / "two", seed=2),
            config("pkd", output_dir=tmp_path / "three", seed=2),
            config("logits", output_dir=tmp_path / "four", seed=2),
        ]
    )
    alone = [
        distill(config(output_dir=tmp_path / "alone2", seed=2)),
        distill(config("pkd", output_dir=tmp_path / "alone3", seed=2)),
        distill(config("logits", output_dir=tmp_path / "alone4", seed=2)),
    ]
    assert [weights(run) for run in together[1:]] == [weights(run) for run in alone]


def test_a_word_table_updated_by_the_row_gives_the_same_student(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage reads the table's rows inside a larger module, and is scored between epochs."""
    own = {"tables": lambda job, *others: [job.model.get_input_embeddings()], "dense": lambda *others: []}
    runs = []
    for name, tables in own.items():
        monkeypatch.setattr(fit, "_sparse_tables", tables)
        runs.append(distill(config(output_dir=tmp_path / name)))
    one, other = (load_file(run.model_path / "model.safetensors") for run in runs)
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], atol=1e-5, rtol=1e-4)


# --- options -----------------------------------------------------------------------------------------------


def test_tinybert_reads_no_labels_unless_told_to(config: Any) -> None:
    """Its second stage is the soft loss alone (Jiao et al. 2020); a config file says so, and repeats it."""
    run = distill(config())
    assert run.config.alpha == 0  # type: ignore[union-attr]
    assert run.history[-1]["hard_loss"] is None
    assert "then loss = MSE(student_logits, teacher_logits)" in run.environment["loss"]
    again = make_config(DistillConfig, read_values(run.path / "config.yaml"))
    assert again == run.config
    assert config(alpha=0.3).alpha == 0.3
    assert config("pkd").alpha == config("logits").alpha == 0.5


def test_settings_that_are_not_given_are_the_papers(config: Any) -> None:
    resolved = resolve(config(layer_epochs=None, layer_learning_rate=None))
    assert (resolved.layer_epochs, resolved.layer_learning_rate, resolved.beta) == (10, 5e-5, None)
    pkd = resolve(config("pkd"))
    assert (pkd.beta, pkd.layer_epochs) == (100, None)
    assert resolve(config("logits")).beta is None


def test_a_student_with_other_tokens_is_refused(config: Any, tmp_path: Path, teacher_run: Run) -> None:
    """Token 5 of one would be matched with token 5 of the other, whatever they stand for."""
    tokenizer = tiny_tokenizer()
    words = tokenizer.get_vocab()
    swapped = {"great": words["dull"], "dull": words["great"]}
    text = (tokenizer.backend_tokenizer.to_str()).replace(f'"great":{words["great"]}', '"great":-1')
    text = text.replace(f'"dull":{words["dull"]}', f'"dull":{swapped["dull"]}')
    text = text.replace('"great":-1', f'"great":{swapped["great"]}')
    folder = tmp_path / "other"
    tiny_bert().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"split text into tokens differently.*--init teacher"):
        distill(config(student=str(folder)))
    assert not (tmp_path / "run").exists()


def test_a_student_with_other_heads_is_refused_for_tinybert_alone(config: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"student has 12 heads and .* 2.*--method pkd"):
        distill(config(student="tinybert", init="random", hidden_size=12, layers=2))
    distill(config("pkd", student="tinybert", init="random", hidden_size=12, layers=2))


def test_a_student_deeper_than_its_teacher_is_refused(config: Any) -> None:
    with pytest.raises(UserError, match=r"student has 3 layers, its teacher only 2"):
        distill(config(init="random", layers=3))


def test_pkd_needs_a_layer_below_the_last(config: Any) -> None:
    with pytest.raises(UserError, match=r"layers 2 or more"):
        distill(config("pkd", init="random", layers=1))


def test_a_teacher_beside_the_student_is_on_record_where_no_logit_of_its_is_read(config: Any) -> None:
    run = distill(config(method="tinybert", alpha=1))
    (teacher,) = run.environment["teachers"]
    assert len(teacher["fingerprint"]) == 64


def test_pkd_refuses_a_model_whose_first_token_reads_no_other(config: Any, tmp_path: Path) -> None:
    """A decoder's first state is the same for every text: its loss would be zero, and teach nothing."""
    model = family("qwen2", num_key_value_heads=2, num_hidden_layers=2, pad_token_id=0)
    save_model(model, tiny_tokenizer(), tmp_path / "decoder")
    folder = str(tmp_path / "decoder")
    with pytest.raises(UserError, match=r"--method pkd .*Qwen2.*reads no other"):
        distill(config("pkd", teacher=folder, student=folder, init="teacher"))
