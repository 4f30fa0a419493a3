"""Students trained together are the students that each would be alone."""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEVICES
from torch import Tensor

from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.training.learners import ModelLearner, OptimizerSettings, StackedLearner, StackedLoader
from distilkit.engine.training.loop import LOG_STEPS, StepRecord, StudentRecord, fit
from distilkit.engine.training.losses import DistillationLoss, Losses, model_inputs
from distilkit.engine.training.optimizer import clip_each_student
from distilkit.errors import UserError
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import autocast
from distilkit.hardware.processes import make_accelerator
from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from distilkit.models.bilstm_stack import BiLSTMStack
from distilkit.runs.records import EpochRecord

ROWS, WORDS, CLASSES = 45, 23, 3  # 45 rows of 2 x 8 a step leave a batch of 5 for the last
ALPHAS, SEEDS = (0.0, 0.4, 1.0, 0.4, 0.7), (1, 1, 1, 2, 3)


def student(seed: int, **options: Any) -> BiLSTMForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"embedding_size": 5, "hidden_size": 4, "head_size": 6, "dropout": 0.3} | options
    config = BiLSTMConfig(vocab_size=WORDS, **sizes, id2label=dict(enumerate("abc")))
    return BiLSTMForSequenceClassification(config)


def encoded(siamese: bool = False, rows: int = ROWS) -> Encoded:
    """Rows of 2 to 9 tokens and one of none, a class that follows from a token, logits of some teacher."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 10, rows)
    lengths[3] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(1, WORDS, offsets[-1])
    flat = {"input_ids": torch.from_numpy(ids.astype(np.int32))}
    if siamese:  # the second text begins somewhere within
        kinds = np.concatenate([np.arange(length) >= length // 2 for length in lengths])
        flat["token_type_ids"] = torch.from_numpy(kinds.astype(np.uint8))
    return Encoded(
        flat,
        offsets,
        dict.fromkeys(flat, 0),
        labels=torch.from_numpy(ids[offsets[:-1]] % CLASSES),
        teacher_logits=torch.from_numpy(random.normal(0, 3, (rows, CLASSES)).astype(np.float32)),
    )


def loader(rows: Encoded, seed: int, accumulation: int = 1) -> Any:
    return step_loader(rows, batch_size=8, gradient_accumulation_steps=accumulation, seed=seed)


def settings(**options: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "metric": "accuracy",
        "epochs": 3,
        "learning_rate": 0.02,
        "weight_decay": 0.1,
        "max_grad_norm": 0.3,
        "validate": told,
    }
    return known | options


def told(model: torch.nn.Module) -> dict[str, float]:
    """A number that only this model has, in place of a metric."""
    return {"accuracy": float(parameters(model).double().sum())}


def alone(
    model: BiLSTMForSequenceClassification, alpha: float, rows: Any, device: str, **options: Any
) -> list[EpochRecord]:
    known = settings(**options)
    terms = pop(known, "alpha_end", "temperature", "labelled_share")
    fitting = pop(known, "epochs", "metric", "patience")
    validate = known.pop("validate")
    select_device(device)
    learner = ModelLearner(
        model,
        DistillationLoss(alpha=alpha, **terms),
        OptimizerSettings(steps=fitting["epochs"] * len(rows), **known),
        accelerator=make_accelerator("fp32"),
        tables=[model.get_input_embeddings()] if device == "cpu" else [],
    )
    records = fit(learner, rows, validate=lambda _: validate(model), **fitting)
    return [
        record.outcome
        for record in records
        if isinstance(record, StudentRecord) and isinstance(record.outcome, EpochRecord)
    ]


def pop(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names if name in options}


def fit_together(
    stack: BiLSTMStack,
    loaders: Sequence[Any],
    alphas: Sequence[float],
    *,
    device: torch.device,
    precision: Any,
    **options: Any,
) -> Iterator[StepRecord | StudentRecord]:
    """Run `fit` over a `StackedLearner`."""
    ends = options.pop("alphas_end", alphas)
    terms = pop(options, "temperature", "labelled_share")
    fitting = pop(options, "epochs", "metric", "patience")
    validate = options.pop("validate")
    losses = [
        DistillationLoss(alpha=alpha, alpha_end=end, **terms) for alpha, end in zip(alphas, ends, strict=True)
    ]
    loader = StackedLoader(loaders)
    settings = OptimizerSettings(steps=fitting["epochs"] * len(loader), **options)
    learner = StackedLearner(stack, losses, settings, device=device, precision=precision)
    return fit(learner, loader, validate=lambda i: validate(stack.students[i]), **fitting)


def distillation_loss(
    student: Tensor, labels: Tensor | None, teacher: Tensor | None, alpha: float | Tensor, **terms: Any
) -> Losses:
    """Compute a `DistillationLoss` of these tensors."""
    targets = {"labels": labels, "teacher_logits": teacher}
    batch = {name: values for name, values in targets.items() if values is not None}
    return DistillationLoss(alpha=alpha, **terms)(student, batch)


def together(
    models: Sequence[BiLSTMForSequenceClassification],
    alphas: Sequence[float],
    loaders: Sequence[Any],
    device: str,
    **options: Any,
) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {number: [] for number in range(len(models))}
    arguments = settings(**options)
    for record in fit_together(
        BiLSTMStack(models), loaders, alphas, device=torch.device(device), precision="fp32", **arguments
    ):
        if not isinstance(record, StepRecord):
            found[record[0]].append(record[1])
    return found


def parameters(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("layers", "siamese", "accumulation", "pooling", "word_dropout"),
    [
        (1, False, 1, "last", 0),
        (2, False, 1, "last", 0.2),
        (1, True, 1, "last", 0),
        (2, True, 1, "both", 0.2),
        (1, False, 2, "both", 0.2),
        (1, False, 1, "max", 0),
        (2, True, 1, "max", 0),
    ],
)
def test_students_trained_together_equal_those_trained_alone(
    layers: int, siamese: bool, accumulation: int, pooling: str, word_dropout: float, device: str
) -> None:
    """Seeds and alphas of their own, one order of rows for some and others for the rest."""
    rows = encoded(siamese).to(torch.device(device))
    sizes = {"num_layers": layers, "siamese": siamese, "pooling": pooling, "word_dropout": word_dropout}
    make = partial(student, **sizes)
    seeds_of = {seed: loader(rows, seed, accumulation) for seed in set(SEEDS)}
    models = [make(seed).to(device) for seed in SEEDS]
    found = together(models, ALPHAS, [seeds_of[seed] for seed in SEEDS], device)
    for number, (alpha, seed) in enumerate(zip(ALPHAS, SEEDS, strict=True)):
        own = make(seed).to(device)
        untrained = parameters(own)
        records = alone(own, alpha, loader(rows, seed, accumulation), device)
        assert (parameters(own) - untrained).abs().max() > 0.05
        # On CUDA the LSTM alone is cuDNN's, in TF32.
        within = 2e-4 if device == "cpu" else 2e-2
        torch.testing.assert_close(parameters(models[number]), parameters(own), atol=within, rtol=0)
        assert len(found[number]) == len(records) == 3
        for one, other in zip(found[number], records, strict=True):
            for name in ("epoch", "step", "learning_rate", "improved"):
                assert getattr(one, name) == getattr(other, name), (number, name)
            for name in ("loss", "hard_loss", "soft_loss"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), abs=10 * within), name
    trained = [parameters(model) for model in models]
    assert all((one - other).abs().max() > 1e-2 for one, other in pairwise(trained)), "alpha and seed act"


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_students_trained_together_have_the_loss_of_those_alone(temperature: float | None) -> None:
    """With rows that have no label, and either soft loss."""
    rows = encoded()
    assert rows.labels is not None
    labels = rows.labels.clone()
    labels[::3] = -100
    rows = rows.join(labels=labels, teacher_logits=rows.teacher_logits)
    options = {"labelled_share": rows.labelled_share, "temperature": temperature}
    models = [student(1, dropout=0.0) for _ in (0, 1)]
    found = together(models, [0.4, 1.0], [loader(rows, 1, 2)] * 2, "cpu", **options)
    for number, alpha in enumerate((0.4, 1.0)):
        own = student(1, dropout=0.0)
        records = alone(own, alpha, loader(rows, 1, 2), "cpu", **options)
        torch.testing.assert_close(parameters(models[number]), parameters(own), atol=2e-4, rtol=0)
        for name in ("hard_loss", "soft_loss"):
            expected = [getattr(record, name) for record in records]
            assert [getattr(record, name) for record in found[number]] == pytest.approx(expected, abs=1e-3)


def test_each_students_alpha_goes_its_own_way_as_alone() -> None:
    """Also where it begins or ends at 0 or 1, and both parts are in every epoch's account."""
    ways = ((0.0, 1.0), (1.0, 0.2), (0.4, 0.4), (0.0, 0.0), (1.0, 1.0))
    rows, one = encoded(), loader(encoded(), 1)
    models = [student(1, dropout=0.0) for _ in ways]
    starts, ends = zip(*ways, strict=True)
    found = together(models, starts, [one] * len(ways), "cpu", alphas_end=ends)
    for number, (start, end) in enumerate(ways):
        own = student(1, dropout=0.0)
        records = alone(own, start, loader(rows, 1), "cpu", alpha_end=end)
        torch.testing.assert_close(parameters(models[number]), parameters(own), atol=2e-4, rtol=0)
        for mine, theirs in zip(found[number], records, strict=True):
            for name in ("loss", "hard_loss", "soft_loss"):
                assert getattr(mine, name) == pytest.approx(getattr(theirs, name), abs=1e-3), (number, name)
    assert all(found[number][0].hard_loss is not None for number in (0, 1, 2, 4))
    assert all(found[number][0].soft_loss is not None for number in (0, 1, 2, 3))
    trained = [parameters(model) for model in models]
    assert all((one - other).abs().max() > 1e-2 for one, other in pairwise(trained))


@pytest.mark.parametrize("device", DEVICES)
def test_company_changes_nothing(device: str) -> None:
    """One of them alone in a stack, then among four others: the same to the rounding of a matrix product."""
    rows = encoded().to(torch.device(device))
    many = [student(seed).to(device) for seed in SEEDS]
    together(many, ALPHAS, [loader(rows, seed) for seed in SEEDS], device)
    single = student(SEEDS[3]).to(device)
    together([single], ALPHAS[3:4], [loader(rows, SEEDS[3])], device)
    torch.testing.assert_close(parameters(single), parameters(many[3]), atol=2e-5, rtol=0)


def test_a_student_that_diverges_is_given_up_and_the_others_do_not_notice() -> None:
    rows = encoded()
    models = [student(seed) for seed in (1, 2, 3)]
    expected = copy.deepcopy(models)
    with torch.no_grad():
        models[1].classifier.bias[0] = float("nan")
    loaders = [loader(rows, seed) for seed in (1, 2, 3)]
    found = together(models, [0.5] * 3, loaders, "cpu")
    assert isinstance(found[1][0], UserError) and len(found[1]) == 1
    assert "not a finite number" in str(found[1][0])
    together(expected, [0.5] * 3, loaders, "cpu")
    for number in (0, 2):
        assert len(found[number]) == 3
        torch.testing.assert_close(parameters(models[number]), parameters(expected[number]))


def test_a_student_whose_last_step_diverges_is_not_the_best() -> None:
    """The loss of that step is still that of the parameters before it."""
    rows = encoded(rows=8)
    models = [student(seed, dropout=0.0) for seed in (1, 2)]
    stack = BiLSTMStack(models)
    one = loader(rows, 1)

    class Poisoned:
        students, weights = stack.students, stack.weights

        def __call__(self, batches: Any) -> Tensor:
            return stack(batches)

        def hand_back(self, numbers: Sequence[int]) -> None:
            with torch.no_grad():
                stack.weights["classifier.bias"][1] = float("inf")
            stack.hand_back(numbers)

    arguments = settings(epochs=1)
    found = list(
        fit_together(
            Poisoned(), [one] * 2, [0.5] * 2, device=torch.device("cpu"), precision="fp32", **arguments
        )
    )
    assert [record[0] for record in found if not isinstance(record, StepRecord)] == [0, 1]
    (error,) = [record[1] for record in found if not isinstance(record, StepRecord) and record[0] == 1]
    assert isinstance(error, UserError) and "parameters are not finite" in str(error)


def test_patience_is_each_students_own() -> None:
    """The first gets worse after one epoch, the second better in all."""
    rows = encoded()
    models = [student(1), student(2)]
    seen = {id(model): 0 for model in models}

    def validate(model: torch.nn.Module) -> dict[str, float]:
        seen[id(model)] += 1
        return {"accuracy": seen[id(model)] * (-1.0 if model is models[0] else 1.0)}

    one = loader(rows, 1)
    found = together(models, [0.5, 0.5], [one, one], "cpu", validate=validate, patience=2, epochs=5)
    assert [record.improved for record in found[0]] == [True, False, False]
    assert [record.improved for record in found[1]] == [True] * 5


def test_a_student_whose_patience_has_ended_stays_as_it_was() -> None:
    rows = encoded()
    models = [student(1), student(2)]
    ended: list[Tensor] = []
    seen: list[Tensor] = []

    def validate(model: torch.nn.Module) -> dict[str, float]:
        if model is models[0]:
            ended.append(parameters(model))
            return {"accuracy": -float(len(ended))}
        seen.append(parameters(model))
        return {"accuracy": float(len(seen))}

    one = loader(rows, 1)
    together(models, [0.5, 0.5], [one, one], "cpu", validate=validate, patience=1, epochs=4)
    assert len(ended) == 2 and len(seen) == 4 and torch.equal(parameters(models[0]), ended[-1])


def test_a_long_epoch_is_told_of_and_one_that_diverges_in_it_is_given_up_there() -> None:
    rows = encoded(rows=60 * 8)
    models = [student(1), student(2), student(3)]
    with torch.no_grad():
        models[1].classifier.bias[0] = float("nan")
    one = loader(rows, 1)
    arguments = settings(epochs=1)
    records = list(
        fit_together(
            BiLSTMStack(models),
            [one] * 3,
            [0.5] * 3,
            device=torch.device("cpu"),
            precision="fp32",
            **arguments,
        )
    )
    failed, step, *epochs = records
    assert isinstance(failed, tuple) and failed[0] == 1 and f"by step {LOG_STEPS}" in str(failed[1])
    assert isinstance(step, StepRecord) and step.step == LOG_STEPS and step.steps == 60
    assert [record[0] for record in epochs if isinstance(record, tuple)] == [0, 2]
    assert 0 < step.loss < 20


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pooling", ["last", "both"])
def test_in_bf16_every_gradient_is_near_that_of_fp32(pooling: str, device: str) -> None:
    """A product that is cast on its own, out of autograd's sight, trains on in fp32 and not in bf16."""
    batch = encoded().to(torch.device(device)).batch(range(ROWS))
    gradients = []
    for precision in ("fp32", "bf16"):
        make = partial(student, dropout=0.0, hidden_size=16, pooling=pooling)
        stack = BiLSTMStack([make(seed).to(device) for seed in (1, 2)])
        with autocast(torch.device(device), precision):  # type: ignore[arg-type]
            logits = stack([model_inputs(batch)] * 2)
        teacher = torch.stack([batch["teacher_logits"]] * 2)
        (logits.float() - teacher).square().mean().backward()
        gradients.append({name: weight.grad for name, weight in stack.weights.items()})
    for name, full in gradients[0].items():
        low = gradients[1][name]
        assert full is not None and low is not None
        assert (full - low).norm() < 0.15 * full.norm(), name


def test_the_caller_may_save_each_student_before_training_goes_on() -> None:
    """What a record is about is in the student's own parameters while the caller has it."""
    rows = encoded()
    models = [student(1), student(2)]
    one = loader(rows, 1)
    arguments = settings()
    for record in fit_together(
        BiLSTMStack(models), [one, one], [0, 1], device=torch.device("cpu"), precision="fp32", **arguments
    ):
        if isinstance(record, tuple) and isinstance(record[1], EpochRecord):
            assert record[1].validation == told(models[record[0]])


def test_fp16_is_refused() -> None:
    one = loader(encoded(), 1)
    with pytest.raises(ValueError, match="fp16"):
        next(
            fit_together(
                BiLSTMStack([student(1)]),
                [one],
                [1.0],
                device=torch.device("cpu"),
                precision="fp16",
                **settings(),
            )
        )


# --- its parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_losses_of_many_are_the_losses_of_each(temperature: float | None) -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    labels = torch.randint(4, (3, 7))
    alphas = torch.tensor([0.0, 0.3, 1.0])
    found = distillation_loss(logits, labels, teacher, alphas, temperature=temperature)
    assert found.hard is not None and found.soft is not None
    for number, alpha in enumerate((0.0, 0.3, 1.0)):
        parts = logits[number], labels[number], teacher[number]
        one = distillation_loss(*parts, alpha, temperature=temperature)
        torch.testing.assert_close(found.total[number], one.total)
        for own, whole in ((one.hard, found.hard), (one.soft, found.soft)):
            if own is not None:
                torch.testing.assert_close(whole[number], own)
    assert distillation_loss(logits, labels, None, torch.ones(3)).soft is None
    assert distillation_loss(logits, None, teacher, torch.zeros(3)).hard is None


def test_losses_of_many_are_the_losses_of_each_where_rows_have_no_label() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(3, 8, 4), torch.randn(3, 8, 4)
    labels = torch.randint(4, (3, 8))
    labels[0, :2] = labels[1, 2:] = -100
    found = distillation_loss(logits, labels, teacher, torch.full((3,), 0.3), labelled_share=0.6)
    for number in range(3):
        parts = logits[number], labels[number], teacher[number]
        alone = distillation_loss(*parts, 0.3, labelled_share=0.6)
        for one, whole in zip(alone[:3], found[:3], strict=True):
            assert one is not None and whole is not None
            torch.testing.assert_close(whole[number], one)


def test_losses_of_tensors_that_do_not_fit_are_refused() -> None:
    logits, alphas = torch.randn(3, 7, 4), torch.full((3,), 0.5)
    labels = torch.zeros(3, 7, dtype=torch.long)
    with pytest.raises(ValueError, match="labels"):
        distillation_loss(logits, labels[:, :6], logits, alphas)
    with pytest.raises(ValueError, match="teacher_logits"):
        distillation_loss(logits, labels, logits[:, :, :1], alphas)
    with pytest.raises(ValueError, match="the batch has none"):
        distillation_loss(logits, None, None, alphas)


def test_each_student_is_clipped_by_its_own_norm() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4, 5), torch.randn(3, 6)]
    for gradient in gradients:
        gradient[1] *= 0.01
        gradient[2] *= 100
    expected = []
    for number in range(3):
        own = [torch.nn.Parameter(gradient[number].clone()) for gradient in gradients]
        for parameter in own:
            parameter.grad = parameter.detach().clone()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        expected.append([parameter.grad for parameter in own])
    clip_each_student(gradients, 1.0)
    for number in range(3):
        for gradient, own in zip(gradients, expected[number], strict=True):
            torch.testing.assert_close(gradient[number], own)
