"""The loop trains what it is told to, on every row, with one optimizer, and tells which epoch was best."""

import copy
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import family, needs_cuda, tiny_bert
from torch import Tensor

from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.inference.logits import predict_logits
from distilkit.engine.training import learners
from distilkit.engine.training.learners import ModelLearner, OptimizerSettings
from distilkit.engine.training.loop import LOG_STEPS, StepRecord, fit, progress
from distilkit.engine.training.losses import DistillationLoss, Losses
from distilkit.engine.training.optimizer import parameter_groups
from distilkit.engine.training.sparse_adamw import SparseRowAdamW
from distilkit.errors import UserError
from distilkit.hardware.device import select_device
from distilkit.hardware.dropout import Dropout
from distilkit.hardware.processes import make_accelerator
from distilkit.runs.records import EpochRecord

VOCABULARY = 30


class Bag(torch.nn.Module):
    """The mean of word vectors, normed and classified: a plain module, nothing of transformers in it."""

    def __init__(self, seed: int = 0, words: int = VOCABULARY) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = torch.nn.Embedding(words, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.out = torch.nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        mask = attention_mask[:, :, None]
        mean = (self.words(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
        return SimpleNamespace(logits=self.out(self.norm(mean)))


def encoded(rows: int, seed: int = 0) -> Encoded:
    """Random rows of 1 to 9 tokens; the label is whether the first token is odd."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 10, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = random.integers(1, VOCABULARY, offsets[-1]).astype(np.int32)
    labels = torch.from_numpy(flat[offsets[:-1]].astype(np.int64) % 2)
    rows_of_them = Encoded(
        flat={"input_ids": torch.from_numpy(flat)}, offsets=offsets, padding={"input_ids": 0}
    )
    return rows_of_them.join(labels=labels)


def labels_only(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
    return DistillationLoss(alpha=1.0)(logits, batch)


class ChangingLoss:
    """A loss of logits that changes as training goes on: `at` takes the progress and returns that step's."""

    def __init__(self, at: Callable[[float], Any]) -> None:
        self.at = at
        self.forward = DistillationLoss(alpha=1.0).forward

    def __call__(self, logits: Tensor, batch: dict[str, Tensor], progress: float = 0.0) -> Losses:
        losses: Losses = self.at(progress)(logits, batch)
        return losses


def scores(*values: float) -> Callable[[torch.nn.Module], dict[str, float]]:
    """A `validate` that answers with these, one an epoch."""
    rest: Iterator[float] = iter(values)
    return lambda model: {"metric": next(rest)}


def run(
    model: torch.nn.Module,
    rows: Encoded,
    *,
    loss: Any = labels_only,
    accelerator: Any = None,
    epochs: int = 1,
    batch_size: int = 8,
    accumulate: int = 1,
    seed: int = 0,
    learning_rate: float = 1e-2,
    validate: Any = lambda model: {"metric": 0.0},
    **options: Any,
) -> Iterator[StepRecord | EpochRecord]:
    """Run `fit` with short words; an error that ends the student's training is raised."""
    loader = step_loader(rows, batch_size=batch_size, gradient_accumulation_steps=accumulate, seed=seed)
    loader.spare_core = options.get("spare_core")
    fitting = {name: options.pop(name) for name in ("patience", "higher_is_better") if name in options}
    learning = {name: options.pop(name) for name in ("tables", "spare_core", "precision") if name in options}
    settings = OptimizerSettings(steps=epochs * len(loader), learning_rate=learning_rate, **options)
    if not hasattr(loss, "forward"):
        loss = ChangingLoss(lambda _, constant=loss: constant)
    learner = ModelLearner(
        model, loss, settings, accelerator=accelerator or make_accelerator("fp32"), **learning
    )
    records = fit(
        learner,
        loader,
        epochs=epochs,
        validate=lambda _: validate(model),
        metric="metric",
        **fitting,
    )
    for record in records:
        if isinstance(record, StepRecord):
            yield record
        elif isinstance(record.outcome, UserError):
            raise record.outcome
        else:
            yield record.outcome


def epochs_of(records: Iterator[StepRecord | EpochRecord]) -> list[EpochRecord]:
    return [record for record in records if isinstance(record, EpochRecord)]


def parameters(model: torch.nn.Module) -> Tensor:
    """All of a model's parameters, flat."""
    return torch.cat([parameter.detach().cpu().flatten() for parameter in model.parameters()])


@pytest.fixture
def optimizers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every optimizer made during the test; each keeps the gradients that its steps were given, flat."""
    made: list[Any] = []

    class Watched(SparseRowAdamW):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.gradients: list[Tensor] = []
            made.append(self)

        def step(self, closure: Any = None) -> Any:
            trained = [parameter for group in self.param_groups for parameter in group["params"]]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in trained]
            self.gradients.append(torch.cat([gradient.cpu().flatten() for gradient in gradients]))
            return super().step(closure)

    monkeypatch.setattr(learners, "SparseRowAdamW", Watched)
    return made


# --- a loss that changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_changing_loss_is_that_of_its_step_from_the_first_to_the_last(accumulate: int) -> None:
    """Counted by forward pass or by epoch, a schedule would end too soon, or start anew."""
    asked: list[float] = []

    def at(progress: float) -> Any:
        asked.append(progress)
        return labels_only

    rows = encoded(36)
    list(run(Bag(), rows, loss=ChangingLoss(at), epochs=2, batch_size=4, accumulate=accumulate))
    steps = 2 * (9 if accumulate == 1 else 3)
    passes = [step / (steps - 1) for step in range(steps) for _ in range(accumulate)]
    assert asked == pytest.approx(passes)
    assert (asked[0], asked[-1]) == (0, 1)


def test_the_changed_loss_is_what_is_trained_on_and_reported() -> None:
    def at(progress: float) -> Any:
        return lambda logits, batch: Losses(labels_only(logits, batch).total * progress, None, None)

    moved, still, rows = Bag(), Bag(), encoded(32)
    (first,) = epochs_of(run(moved, rows, loss=ChangingLoss(at)))
    (plain,) = epochs_of(run(still, rows))
    assert 0.2 * plain.loss < first.loss < 0.8 * plain.loss
    assert not torch.equal(parameters(moved), parameters(still))


def test_one_step_is_the_first() -> None:
    assert progress(0, 1) == 0


# --- accumulation ------------------------------------------------------------------------------------------


def test_8_x_4_takes_the_same_steps_as_32_x_1_also_when_the_last_step_does_not_divide(
    optimizers: list[Any],
) -> None:
    """Losses averaged per batch instead of per row, or not divided at all, would train another model.

    77 rows are steps of 32, 32 and 13, the last one cut into 8 and 5. Adam and clipping hide a wrong scale,
    so the raw gradients of every step are compared too.
    """
    rows, models = encoded(77), (Bag(), Bag())
    for model, (batch_size, accumulate) in zip(models, ((32, 1), (8, 4)), strict=True):
        shape = {"batch_size": batch_size, "accumulate": accumulate}
        epochs_of(run(model, rows, epochs=3, max_grad_norm=1e9, **shape))
    whole, cut = (optimizer.gradients for optimizer in optimizers)
    assert len(whole) == len(cut) == 9
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(parameters(models[0]), parameters(models[1]), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(parameters(models[0]), parameters(Bag()), atol=1e-2)


def test_8_x_4_clips_the_norm_of_the_step_and_not_of_a_batch() -> None:
    rows, models = encoded(77), (Bag(), Bag())
    for model, (batch_size, accumulate) in zip(models, ((32, 1), (8, 4)), strict=True):
        shape = {"batch_size": batch_size, "accumulate": accumulate}
        epochs_of(run(model, rows, epochs=2, max_grad_norm=0.05, **shape))
    torch.testing.assert_close(parameters(models[0]), parameters(models[1]), atol=1e-5, rtol=1e-4)


def test_8_x_4_divides_for_a_bert_too(optimizers: list[Any]) -> None:
    """`transformers.Trainer` leaves the division out for models that take loss arguments."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    for batch_size, accumulate in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        shape = {"batch_size": batch_size, "accumulate": accumulate}
        epochs_of(run(model, encoded(27), epochs=2, learning_rate=1e-4, max_grad_norm=1e9, **shape))
    whole, cut = (optimizer.gradients for optimizer in optimizers)
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_losses_of_an_epoch_are_means_over_rows_not_over_batches() -> None:
    """With a short last batch the two differ, and 32 x 1 would log another loss than 8 x 4."""
    logged = [
        epochs_of(run(Bag(), encoded(13), batch_size=size, learning_rate=1e-12, max_grad_norm=1e9))[0]
        for size in (8, 13)
    ]
    assert logged[0].loss == pytest.approx(logged[1].loss, rel=1e-5)
    rows = encoded(13)
    assert rows.labels is not None
    logits = predict_logits(Bag(), rows, precision="fp32")
    expected = torch.nn.functional.cross_entropy(logits, rows.labels).item()
    assert logged[0].loss == pytest.approx(expected, rel=1e-5)
    assert logged[0].hard_loss == logged[0].loss and logged[0].soft_loss is None


# --- rows --------------------------------------------------------------------------------------------------


def watched_rows(epochs: int, seed: int = 0) -> list[list[list[int]]]:
    """Per epoch, per batch: the labels-free identity of the rows that the loss was given."""
    rows = encoded(26)
    identity = torch.arange(26)
    seen: list[list[list[int]]] = []
    current: list[list[int]] = []

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        current.append(batch["labels"].tolist())
        return Losses(logits.square().mean(), None, None)

    for record in run(Bag(), rows.join(labels=identity), loss=loss, epochs=epochs, seed=seed):
        if isinstance(record, EpochRecord):
            seen.append(list(current))
            current.clear()
    return seen


def test_the_short_last_batch_is_trained_on() -> None:
    for batches in watched_rows(epochs=2):
        assert sorted(row for batch in batches for row in batch) == list(range(26))
        assert sorted(map(len, batches)) == [2, 8, 8, 8]


def test_fewer_rows_than_a_batch_still_train() -> None:
    model = Bag()
    before = parameters(model)
    (record,) = epochs_of(run(model, encoded(3), batch_size=8))
    assert record.step == 1
    assert not torch.equal(parameters(model), before)


def test_batches_differ_between_epochs_and_repeat_with_the_seed() -> None:
    first, second, third = watched_rows(epochs=3)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert second != third
    assert watched_rows(epochs=3) == [first, second, third]
    assert watched_rows(epochs=3, seed=1) != [first, second, third]


def test_the_model_is_given_no_label_and_no_teacher_logits() -> None:
    """Given labels, a transformers model computes a loss of its own: Trainer's way of hiding ours."""
    given: list[set[str]] = []

    class Nosy(Bag):
        def forward(self, **inputs: Tensor) -> SimpleNamespace:
            given.append(set(inputs))
            return super().forward(inputs["input_ids"], inputs["attention_mask"])

    rows = encoded(8)
    epochs_of(run(Nosy(), rows.join(labels=rows.labels, teacher_logits=torch.zeros(8, 2))))
    assert given == [{"input_ids", "attention_mask"}]


# --- optimizer and schedule --------------------------------------------------------------------------------


def test_weight_decay_shrinks_matrices_and_leaves_biases_and_norms_alone() -> None:
    """Only decay moves a parameter whose gradient is zero: by (1 - learning rate * decay) each step."""
    model = Bag()
    with torch.no_grad():
        model.out.bias.fill_(1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def nothing(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        return Losses(0 * logits.sum(), None, None)

    options = {"weight_decay": 0.5, "warmup_ratio": 0.0}
    epochs_of(run(model, encoded(8), loss=nothing, learning_rate=0.1, **options))
    for name, parameter in model.named_parameters():
        shrunk = 0.95 if name in ("words.weight", "out.weight") else 1.0
        torch.testing.assert_close(parameter.detach().cpu(), shrunk * before[name])


def test_frozen_parameters_stay_out_of_the_optimizer() -> None:
    model = Bag()
    model.words.requires_grad_(False)
    trained = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert len(trained) == 4
    before = model.words.weight.clone()
    epochs_of(run(model, encoded(16), weight_decay=0.5))
    assert torch.equal(model.words.weight.cpu(), before)


def test_one_optimizer_lives_as_long_as_the_run(optimizers: list[Any]) -> None:
    """Made anew each epoch it forgets its moments, and warm-up starts again."""
    model = Bag()
    epochs_of(run(model, encoded(16), epochs=4))
    (optimizer,) = optimizers
    assert {float(state["step"]) for state in optimizer.state.values()} == {8.0}


def test_the_schedule_runs_over_all_epochs_once() -> None:
    """Warm-up over the first quarter of all 8 steps, then down to nothing at the end of the run."""
    records = epochs_of(run(Bag(), encoded(16), epochs=4, learning_rate=0.6, warmup_ratio=0.25))
    # The rates that the last steps of the epochs used: steps 2, 4, 6 and 8, the first one at 0.
    assert [record.step for record in records] == [2, 4, 6, 8]
    assert [record.learning_rate for record in records] == pytest.approx([0.3, 0.5, 0.3, 0.1])


def test_the_student_trains_again_after_validation() -> None:
    """Left in eval mode by a validation, it would train on without dropout, epoch after epoch."""
    modes: list[bool] = []
    model = Bag()

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        modes.append(model.training)
        return labels_only(logits, batch)

    def validate(module: torch.nn.Module) -> dict[str, float]:
        module.eval()  # as validation code does that never thinks of training
        return {"metric": 0.0}

    epochs_of(run(model.eval(), encoded(16), loss=loss, epochs=3, validate=validate))
    assert modes == [True] * 6


def test_gradients_are_clipped_to_the_norm(optimizers: list[Any]) -> None:
    def steep(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        return Losses(1e4 * labels_only(logits, batch).total, None, None)

    epochs_of(run(Bag(), encoded(32), loss=steep, max_grad_norm=0.5))
    norms = [float(gradient.norm()) for gradient in optimizers[0].gradients]
    assert norms == pytest.approx([0.5] * 4, rel=1e-3)


def test_gradients_within_the_norm_are_left_alone_and_do_not_pile_up(optimizers: list[Any]) -> None:
    """Not zeroed between steps, gradients would add up: here each step's alone is compared with its own."""
    rows = encoded(8)
    epochs_of(run(Bag(), rows, epochs=3, learning_rate=1e-12, max_grad_norm=1e9))
    first, *others = optimizers[0].gradients
    assert float(first.norm()) > 1e-3
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-6, rtol=1e-4)


# --- word tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (3, 3)])
@pytest.mark.parametrize("max_grad_norm", [0.05, 1e9])
def test_a_table_updated_by_its_rows_trains_the_same_model(
    batch_size: int, accumulate: int, max_grad_norm: float, cpu: None
) -> None:
    """Rows that miss an update, a schedule or the clipping train another student, and nothing says so.

    30 of 300 rows are read at all, and a step misses most of these.
    """
    rows, models = encoded(77), (Bag(words=300), Bag(words=300))
    options: dict[str, Any] = {"batch_size": batch_size, "accumulate": accumulate, "epochs": 3}
    options |= {"weight_decay": 0.1, "max_grad_norm": max_grad_norm}
    records = [
        epochs_of(run(model, rows, tables=tables, **options))
        for model, tables in zip(models, ([], [models[1].words]), strict=True)
    ]
    torch.testing.assert_close(parameters(models[1]), parameters(models[0]), atol=1e-5, rtol=1e-4)
    losses = [[record.loss for record in one] for one in records]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_every_row_of_a_table_is_up_to_date_when_the_model_is_validated_or_saved(cpu: None) -> None:
    """Validated behind its time, the best epoch would be another; saved so, the run would be none of them."""
    rows, seen = encoded(40), []

    def validate(model: torch.nn.Module) -> dict[str, float]:
        seen[-1].append(parameters(model))
        return {"metric": 0.0}

    for sparse in (False, True):
        model = Bag(words=300)
        seen.append([])
        tables = [model.words] if sparse else []
        for record in run(model, rows, epochs=3, tables=tables, weight_decay=0.5, validate=validate):
            assert isinstance(record, EpochRecord)
            assert torch.equal(parameters(model), seen[-1][-1])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


# --- the format of the forward pass ------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_of_training_runs_in_the_precision_and_nothing_else_does(
    precision: Any, dtype: torch.dtype
) -> None:
    """bf16 not entered is slow and silent; entered for the loss or the validation it costs quality."""
    seen: dict[str, set[torch.dtype]] = {"out": set(), "loss": set(), "validation": set()}
    model = Bag()
    model.out.register_forward_hook(
        lambda module, given, result: seen["out" if module.training else "validation"].add(result.dtype)
    )

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        assert not torch.is_autocast_enabled(logits.device.type)
        seen["loss"].add(logits.dtype)
        return labels_only(logits, batch)

    def validate(module: torch.nn.Module) -> dict[str, float]:
        module.eval()
        module(**encoded(4).to(next(module.parameters()).device).inputs(np.arange(4)))
        return {"metric": 0.0}

    epochs_of(run(model, encoded(16), loss=loss, validate=validate, precision=precision))
    assert seen == {"out": {dtype}, "loss": {torch.float32}, "validation": {torch.float32}}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# --- the best epoch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0.0, -0.5])
def test_a_first_metric_of_zero_or_less_is_still_the_best_so_far(first: float) -> None:
    """A best that starts at 0 never saves a model whose metric (MCC, say) does not rise above it."""
    records = epochs_of(run(Bag(), encoded(8), epochs=3, validate=scores(first, first - 0.1, first + 0.1)))
    assert [record.improved for record in records] == [True, False, True]


def test_best_is_decided_by_the_metric_asked_for_and_no_other() -> None:
    answers = iter([{"accuracy": 0.9, "metric": 0.1}, {"accuracy": 0.5, "metric": 0.2}])
    records = epochs_of(run(Bag(), encoded(8), epochs=2, validate=lambda model: next(answers)))
    assert [record.improved for record in records] == [True, True]
    assert records[1].validation == {"accuracy": 0.5, "metric": 0.2}


def test_a_tie_is_decided_by_the_loss_and_then_by_the_earlier_epoch() -> None:
    """Patience counts in the same way: a model whose loss still falls has not stopped learning."""
    losses = (0.5, 0.6, 0.4, 0.4, 0.3)
    answers = iter([{"metric": 0.75, "loss": loss} for loss in losses])
    records = epochs_of(run(Bag(), encoded(8), epochs=5, patience=2, validate=lambda model: next(answers)))
    assert [record.improved for record in records] == [True, False, True, False, True]


def test_a_loss_may_be_the_metric() -> None:
    answers = iter([{"metric": value} for value in (0.5, 0.4, 0.45)])
    validated = run(Bag(), encoded(8), epochs=3, higher_is_better=False, validate=lambda model: next(answers))
    assert [record.improved for record in epochs_of(validated)] == [True, True, False]


def test_early_stopping_counts_epochs_without_a_better_metric() -> None:
    """A tie is not better; a new best starts the count again."""
    values = (0.5, 0.4, 0.6, 0.6, 0.55, 0.7)
    stopped = epochs_of(run(Bag(), encoded(8), epochs=6, patience=2, validate=scores(*values)))
    assert [record.improved for record in stopped] == [True, False, True, False, False]
    whole = epochs_of(run(Bag(), encoded(8), epochs=6, validate=scores(*values)))
    assert [record.epoch for record in whole] == [1, 2, 3, 4, 5, 6]


def test_the_caller_may_save_before_training_goes_on() -> None:
    """A generator that ran ahead would hand over the parameters of a later epoch as the best."""
    model = Bag()
    at_validation: list[Tensor] = []

    def validate(module: torch.nn.Module) -> dict[str, float]:
        at_validation.append(parameters(module))
        return {"metric": float(len(at_validation))}

    for record in run(model, encoded(16), epochs=3, validate=validate):
        assert isinstance(record, EpochRecord)
        assert torch.equal(parameters(model), at_validation[record.epoch - 1])


# --- losses that are no numbers ----------------------------------------------------------------------------


def test_what_is_dropped_depends_on_the_seed_and_on_nothing_that_runs_beside(cpu: None) -> None:
    """On a CPU dropout is our own, whose numbers nobody else draws."""

    def train(seed: int, drawn: int) -> Tensor:
        def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
            torch.rand(drawn)
            return labels_only(logits, batch)

        model = Bag()
        model.out = torch.nn.Sequential(torch.nn.Dropout(0.5), model.out)  # type: ignore[assignment]
        torch.manual_seed(seed)
        list(run(model, encoded(40), loss=loss))
        return parameters(model)

    assert torch.equal(train(1, drawn=0), train(1, drawn=3))
    assert not torch.equal(train(1, drawn=0), train(2, drawn=0))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_training_before_its_epoch_can_be_saved(poison: float) -> None:
    calls = 0

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        nonlocal calls
        calls += 1
        good = labels_only(logits, batch)
        return Losses(good.total * poison, good.hard, None) if calls == 3 else good

    records = run(Bag(), encoded(16), loss=loss, epochs=3)
    first = next(records)
    assert isinstance(first, EpochRecord) and first.epoch == 1
    with pytest.raises(UserError, match="finite"):
        next(records)


def test_a_poisoned_part_is_noticed_though_the_total_looks_well() -> None:
    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        good = labels_only(logits, batch)
        return Losses(good.total, good.hard, good.total * math.nan)

    with pytest.raises(UserError, match="soft_loss"):
        epochs_of(run(Bag(), encoded(8), loss=loss))


def test_a_long_epoch_that_diverges_stops_at_the_next_look_and_not_at_its_end() -> None:
    calls = 0

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        nonlocal calls
        calls += 1
        return Losses(labels_only(logits, batch).total * math.nan, None, None)

    with pytest.raises(UserError, match=f"step {LOG_STEPS} "):
        epochs_of(run(Bag(), encoded(3 * LOG_STEPS), loss=loss, batch_size=1))
    assert calls == LOG_STEPS


def test_parameters_that_the_last_step_made_infinite_are_never_the_best() -> None:
    """The loss of a step is that of the parameters before it: the last step's damage shows in none."""

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        # A finite value whose gradient is infinite, as an overflow in the backward pass leaves it.
        return Losses((logits * 0).abs().sum().sqrt(), None, None)

    model = Bag()
    with pytest.raises(UserError):
        epochs_of(run(model, encoded(8), loss=loss))
    assert not parameters(model).isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_validation_scores_that_are_no_numbers_end_the_training(value: float) -> None:
    """NaN is better than nothing and worse than nothing: no epoch would ever be kept."""
    records = run(Bag(), encoded(8), validate=lambda _: {"metric": 0.5, "loss": value}, epochs=2)
    with pytest.raises(UserError, match="validation scores are not finite"):
        epochs_of(records)


# --- what it tells, what it takes --------------------------------------------------------------------------


def test_steps_are_told_every_so_often() -> None:
    records = list(run(Bag(), encoded(2 * LOG_STEPS + 5), batch_size=1, epochs=1))
    told = [record for record in records if isinstance(record, StepRecord)]
    assert [(record.step, record.steps) for record in told] == [
        (LOG_STEPS, 2 * LOG_STEPS + 5),
        (2 * LOG_STEPS, 2 * LOG_STEPS + 5),
    ]
    assert isinstance(records[-1], EpochRecord)


def test_a_plain_module_learns_from_a_teacher_and_both_parts_are_told() -> None:
    rows = encoded(64)
    assert rows.labels is not None
    teacher_logits = torch.nn.functional.one_hot(rows.labels, 2).float() * 4 - 2
    records = epochs_of(
        run(
            Bag(),
            rows.join(labels=rows.labels, teacher_logits=teacher_logits),
            loss=DistillationLoss(alpha=0.25),
            epochs=10,
            learning_rate=5e-2,
        )
    )
    last = records[-1]
    assert last.hard_loss is not None and last.soft_loss is not None
    assert last.loss == pytest.approx(0.25 * last.hard_loss + 0.75 * last.soft_loss, rel=1e-4)
    assert last.loss < 0.5 * records[0].loss
    assert last.as_dict()["soft_loss"] == last.soft_loss


@pytest.mark.cuda
@needs_cuda
def test_fit_on_cuda_equals_fit_on_the_cpu() -> None:
    rows, models = encoded(77), (Bag(), Bag())
    epochs_of(run(models[0], rows, epochs=2))
    assert next(models[0].parameters()).is_cuda
    select_device("cpu")
    epochs_of(run(models[1], rows, epochs=2))
    torch.testing.assert_close(parameters(models[0]), parameters(models[1]), atol=1e-4, rtol=1e-3)


# --- a core to spare ---------------------------------------------------------------------------------------


def test_a_second_core_changes_no_bit_of_a_training(cpu: None) -> None:
    rows, models = encoded(40), (Bag(words=300), Bag(words=300))
    with ThreadPoolExecutor(1) as executor:
        for model, spare_core in zip(models, (None, executor), strict=True):
            epochs_of(run(model, rows, epochs=3, tables=[model.words], spare_core=spare_core))
    assert torch.equal(parameters(models[0]), parameters(models[1]))


def test_a_training_that_is_left_early_leaves_a_whole_model(cpu: None) -> None:
    """A caller who catches the error, or stops listening, goes on with the model."""
    model = Bag(words=300)

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Losses:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run(model, encoded(40), loss=loss, epochs=1, tables=[model.words]))
    assert "forward" not in vars(model.words)
    copy.deepcopy(model)(torch.tensor([[250]]), torch.ones(1, 1))


# --- memory that runs out ----------------------------------------------------------------------------------


class Hungry(Bag):
    """Runs out of memory on batches of more than `fits` rows, in the backward pass."""

    def __init__(
        self, fits: int, message: str = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", **sizes: Any
    ) -> None:
        super().__init__(**sizes)
        self.fits, self.message, self.tried = fits, message, list[int]()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        output = super().forward(input_ids, attention_mask)
        self.tried.append(len(input_ids))
        if len(input_ids) > self.fits:
            output.logits.register_hook(self.refuse)
        return output

    def refuse(self, gradient: Tensor) -> None:
        raise RuntimeError(self.message)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_batch_that_does_not_fit_is_halved_and_the_steps_stay_the_same(
    accumulate: int, optimizers: list[Any]
) -> None:
    """Rows left out or counted twice would train another model; an error would end the run hours in."""
    rows, hungry, model = encoded(77), Hungry(fits=5), Bag()
    shape: dict[str, Any] = {"batch_size": 16, "accumulate": accumulate, "epochs": 2, "max_grad_norm": 1e9}
    records = [epochs_of(run(trained, rows, **shape)) for trained in (hungry, model)]
    torch.testing.assert_close(parameters(hungry), parameters(model), atol=1e-5, rtol=1e-4)
    for one, other in zip(*(optimizer.gradients for optimizer in optimizers), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert [record.loss for record in records[0]] == pytest.approx([r.loss for r in records[1]], rel=1e-4)
    assert [record.step for record in records[0]] == [record.step for record in records[1]]
    too_many = [count for count in hungry.tried if count > 5]
    assert too_many == [16, 8] and max(hungry.tried[hungry.tried.index(8) + 1 :]) == 4


def test_a_single_row_that_does_not_fit_and_any_other_error_end_the_training() -> None:
    """Halved for ever, training would never end."""
    hungry = Hungry(fits=0)
    with pytest.raises(RuntimeError, match="CUBLAS"):
        epochs_of(run(hungry, encoded(16)))
    assert hungry.tried == [8, 4, 2, 1]
    with pytest.raises(RuntimeError, match="mat1"):
        epochs_of(run(Hungry(fits=3, message="mat1 and mat2 differ"), encoded(20)))


@pytest.mark.parametrize("fits", [100, 3])
def test_a_rehearsal_changes_nothing_but_how_many_rows_are_read_at_a_time(fits: int) -> None:
    rows, models = encoded(40), (Hungry(fits), Hungry(fits))
    for model in models:
        torch.manual_seed(5)
        model.out = torch.nn.Sequential(Dropout(0.3), model.out)  # type: ignore[assignment]
    trained = []
    for rehearses, model in zip((True, False), models, strict=True):
        loader = step_loader(rows, batch_size=8, gradient_accumulation_steps=1, seed=0)
        learner = ModelLearner(
            model,
            ChangingLoss(lambda _: labels_only),
            OptimizerSettings(steps=2 * len(loader), learning_rate=1e-2),
            accelerator=make_accelerator("fp32"),
        )
        if rehearses:
            before = parameters(model)
            learner.start_epoch()
            learner.rehearse([rows.to(next(model.parameters()).device).batch(range(8))] * 2)
            assert learner.max_batch_rows == (None if fits == 100 else 2)
            assert torch.equal(parameters(model), before)
            assert all(parameter.grad is None for parameter in model.parameters())
            assert not learner._optimizer.state
        else:
            learner.max_batch_rows = None if fits == 100 else 2
        batches = [loader.collate_fn(list(range(i, i + 8))) for i in range(0, 40, 8)]
        for batch in batches:
            learner.step([{name: v.to(next(model.parameters()).device) for name, v in batch[0].items()}], 0.0)
        trained.append(parameters(model))
    torch.testing.assert_close(*trained, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(trained[0], before, atol=1e-3)


@pytest.mark.parametrize("rows", [None, 1, 3, 5, 9])
def test_parts_of_a_batch_are_its_rows_in_their_order(rows: int | None) -> None:
    batch = encoded(5).batch(range(5))
    parts = list(learners.cut_batch(batch, rows))
    assert max(len(part["input_ids"]) for part in parts) <= (rows or 5)
    for name, values in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), values)
    assert rows is not None or parts[0] is batch


def test_accelerates_optimizer_takes_no_step_but_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks through the file system for a library in every step, for nothing without a scaler."""
    from accelerate.optimizer import AcceleratedOptimizer

    monkeypatch.delattr(AcceleratedOptimizer, "step")
    epochs_of(run(Bag(), encoded(8)))


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_on_cuda_waits_for_the_device(precision: Any) -> None:
    """A value that is read in every step leaves the GPU idle while Python prepares the next kernels."""
    rows = encoded(200).to(torch.device("cuda"))
    for model in (Bag(), tiny_bert(), family("bilstm"), family("bilstm", num_layers=2)):
        loader = step_loader(rows, batch_size=8, gradient_accumulation_steps=1, seed=0)
        learner = ModelLearner(
            model,
            DistillationLoss(alpha=1.0),
            OptimizerSettings(steps=len(loader), learning_rate=1e-3),
            accelerator=make_accelerator(precision),
            precision=precision,
        )
        learner.start_epoch()
        for i, batches in enumerate(loader):
            torch.cuda.set_sync_debug_mode("error" if i >= 2 else "default")
            try:
                learner.step(batches, 0.0)
            finally:
                torch.cuda.set_sync_debug_mode("default")
