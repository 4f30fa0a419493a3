"""Layers are seen as the model computes them, matched with the right ones, and padding is not looked at."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import DEVICES, family, tiny_bert
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
)

from distilkit.engine.training.layer_losses import (
    Layers,
    attention_loss,
    hidden_loss,
    layer_losses,
    layer_map,
    patient_loss,
)
from distilkit.engine.training.layers import Projected, run_layers
from distilkit.errors import UserError
from distilkit.hardware.kernels import FastDropout
from distilkit.hardware.precision import autocast
from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification

SHAPE: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def built(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": tiny_bert,
    "distilbert": lambda: built(
        DistilBertConfig(vocab_size=30, dim=24, n_layers=2, n_heads=2, hidden_dim=48)
    ),
    "roberta": lambda: built(RobertaConfig(**SHAPE)),
    "electra": lambda: built(ElectraConfig(**SHAPE, embedding_size=12)),
}


def padded_batch(lengths: tuple[int, ...] = (9, 4, 1)) -> dict[str, Tensor]:
    """Random tokens; rows are padded on the right to the longest."""
    torch.manual_seed(1)
    position = torch.arange(max(lengths))
    mask = (position < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, 20, mask.shape) * mask, "attention_mask": mask}


def trained_enough(model: Any) -> Any:
    """Larger weights, so that scores and weights of attention differ between tokens."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model


# --- seeing inside -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_seeing_inside_changes_no_output_and_the_scores_are_what_the_softmax_reads(
    name: str, before: str
) -> None:
    """An attention that forgets the mask, or the scale, would distil another teacher than the user's."""
    model, batch = trained_enough(ENCODERS[name]()), padded_batch()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        eager = model(**batch, output_hidden_states=True, output_attentions=True)
        model.set_attn_implementation(before)
        plain = model(**batch).logits
        seen = run_layers(model, batch)
    assert seen.logits is not None
    torch.testing.assert_close(seen.logits, eager.logits)
    torch.testing.assert_close(seen.logits, plain)
    assert len(seen.states) == 3 and len(seen.scores) == 2
    for ours, theirs in zip(seen.states, eager.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    hidden = (1 - batch["attention_mask"])[:, None, None, :] * torch.finfo(torch.float32).min
    for scores, weights in zip(seen.scores, eager.attentions, strict=True):
        assert scores.abs().max() < 1e4, "the mask is in the scores"
        torch.testing.assert_close(torch.softmax(scores + hidden, dim=-1), weights)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_models_own_attention_is_back_afterwards_and_saved_nowhere(name: str, tmp_path: Any) -> None:
    """A student whose config names our attention would load nowhere else."""
    model = ENCODERS[name]()
    before = model.config._attn_implementation
    run_layers(model, padded_batch())
    assert model.config._attn_implementation == before
    with pytest.raises(IndexError):  # a token that is not in the table
        run_layers(model, {"input_ids": torch.tensor([[10**6]])})
    assert model.config._attn_implementation == before
    model.save_pretrained(tmp_path)
    assert "distilkit" not in (tmp_path / "config.json").read_text()


def test_states_alone_leave_attention_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """PKD reads no scores and should not pay for them, and works for models that cannot show them."""
    model = built(MPNetConfig(**SHAPE))
    seen = run_layers(model, padded_batch(), scores=False)
    assert len(seen.states) == 3 and seen.scores == ()
    with pytest.raises(UserError, match=r"MPNetForSequenceClassification .* --method pkd"):
        run_layers(model, padded_batch())
    bilstm = BiLSTMForSequenceClassification(BiLSTMConfig(vocab_size=30, embedding_size=6, hidden_size=4))
    with pytest.raises(UserError, match=r"BiLSTMForSequenceClassification has no layers.*--method logits"):
        run_layers(bilstm, padded_batch(), scores=False)


def test_a_model_reads_of_a_batch_what_it_takes() -> None:
    """DistilBERT has no segments; BERT without them would take a pair for one text."""
    batch = padded_batch((9, 4))
    segments = {"token_type_ids": (torch.arange(9) > 4).long().expand(2, 9) * batch["attention_mask"]}
    run_layers(ENCODERS["distilbert"](), batch | segments)
    bert = trained_enough(tiny_bert())
    labels = {"labels": torch.zeros(2, dtype=torch.int64)}
    seen = run_layers(bert, batch | segments | labels).logits
    torch.testing.assert_close(seen, bert(**batch, **segments).logits)
    assert not torch.allclose(seen, bert(**batch).logits)


def test_dropout_acts_in_the_students_attention_and_not_in_its_scores() -> None:
    """Without it a student would train its first stage without the regularisation it was promised."""
    model = tiny_bert().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    batch = padded_batch()
    one, other = run_layers(model, batch), run_layers(model, batch)
    torch.testing.assert_close(one.scores[0], other.scores[0])
    assert not torch.allclose(one.states[1], other.states[1])
    with FastDropout():
        assert not torch.allclose(run_layers(model, batch).states[1], one.states[1])


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_go_through_the_scores_also_under_autocast(device: str) -> None:
    """Detached scores would leave queries and keys untrained by the attention loss, silently."""
    model, batch = tiny_bert().to(device), padded_batch()
    batch = {name: values.to(device) for name, values in batch.items()}
    with autocast(torch.device(device), "bf16"):
        seen = run_layers(model, batch)
    attention_loss(seen.scores[0], torch.zeros_like(seen.scores[0]), batch["attention_mask"]).backward()
    query = model.bert.encoder.layer[0].attention.self.query.weight
    assert query.dtype == torch.float32 and query.grad.abs().sum() > 0
    assert model.bert.encoder.layer[1].attention.self.query.weight.grad is None


# --- losses ------------------------------------------------------------------------------------------------


def random_layers(seed: int, length: int = 5, rows: int = 2, width: int = 6, heads: int = 3) -> Layers:
    torch.manual_seed(seed)
    return Layers(
        states=tuple(torch.randn(rows, length, width) for _ in range(3)),
        scores=tuple(torch.randn(rows, heads, length, length) for _ in range(2)),
        logits=None,
    )


def test_the_losses_are_the_papers_mean_squared_errors() -> None:
    """By hand, for rows without padding: a sum, or a mean over something less, would shift the weights."""
    ours, theirs, mask = random_layers(0), random_layers(1), torch.ones(2, 5)
    hidden = hidden_loss(ours.states[0], theirs.states[0], mask)
    torch.testing.assert_close(hidden, mse_loss(ours.states[0], theirs.states[0]))
    attention = attention_loss(ours.scores[0], theirs.scores[0], mask)
    torch.testing.assert_close(attention, mse_loss(ours.scores[0], theirs.scores[0]))
    squares = [
        (one / one.norm() - other / other.norm()).square().sum() / 6
        for layer in (1, 2)
        for one, other in zip(ours.states[layer][:, 0], theirs.states[layer][:, 0], strict=True)
    ]
    torch.testing.assert_close(
        patient_loss(ours.states[1:], theirs.states[1:]), torch.stack(squares).mean(), atol=1e-6, rtol=1e-5
    )


def test_patient_loss_does_not_see_how_long_a_state_is() -> None:
    """It compares directions (equation 7); lengths differ between widths and layers."""
    ours, theirs = random_layers(0).states, random_layers(1).states
    longer = [7 * states for states in ours]
    torch.testing.assert_close(patient_loss(longer, theirs), patient_loss(ours, theirs))
    other_tokens = [torch.cat([states[:, :1], states[:, 1:] + 1], dim=1) for states in ours]
    torch.testing.assert_close(patient_loss(other_tokens, theirs), patient_loss(ours, theirs))
    assert patient_loss([-states for states in ours], ours) == pytest.approx(4 / 6)


@pytest.mark.parametrize("filler", [0.0, 1e4, float("inf"), float("nan")])
def test_losses_and_gradients_ignore_padding(filler: float) -> None:
    """What stands at padding is arbitrary, and how much of it there is depends on a row's batch mates."""
    lengths, total = (5, 2), 8
    mask = (torch.arange(total) < torch.tensor(lengths)[:, None]).long()
    ours, theirs = random_layers(0, total), random_layers(1, total)
    alone = []
    for row, length in enumerate(lengths):
        cut = slice(row, row + 1), slice(length)
        one = torch.ones(1, length)
        alone.append(
            hidden_loss(ours.states[0][cut], theirs.states[0][cut], one)
            + attention_loss(
                ours.scores[0][cut[0], :, :length, :length],
                theirs.scores[0][cut[0], :, :length, :length],
                one,
            )
        )
    real = mask.bool()
    pairs = (real[:, :, None] & real[:, None, :])[:, None]
    states = ours.states[0].masked_fill(~real[:, :, None], filler).requires_grad_()
    scores = ours.scores[0].masked_fill(~pairs, filler).requires_grad_()
    loss = hidden_loss(states, theirs.states[0], mask) + attention_loss(scores, theirs.scores[0], mask)
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    if filler == 1e4:
        loss.backward()
        assert states.grad is not None and scores.grad is not None
        assert not states.grad[~real].any() and states.grad[real].all()
        assert not scores.grad[~pairs.expand_as(scores)].any()
        assert scores.grad[pairs.expand_as(scores)].all()


@pytest.mark.parametrize("name", ENCODERS)
def test_what_a_row_loses_does_not_depend_on_its_batch(name: str) -> None:
    """The same through whole models: alone, and padded beside longer rows."""
    teacher, student = trained_enough(ENCODERS[name]()), ENCODERS[name]()

    def loss(batch: dict[str, Tensor]) -> Tensor:
        seen = run_layers(student, batch), run_layers(teacher, batch)
        return layer_losses(*seen, batch["attention_mask"], [1, 2]).total

    batch = padded_batch((9, 4))
    with torch.no_grad():
        together = loss(batch)
        alone = [
            loss({key: values[row : row + 1, :length] for key, values in batch.items()})
            for row, length in enumerate((9, 4))
        ]
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-4)


def test_a_student_equal_to_its_teacher_loses_nothing() -> None:
    """Else the optimum of the stage is not the teacher. A student that differs in one layer does lose."""
    teacher, student, batch = tiny_bert(), tiny_bert(), padded_batch()
    with torch.no_grad():
        theirs = run_layers(teacher, batch)
        losses = layer_losses(run_layers(student, batch), theirs, batch["attention_mask"], [1, 2])
        assert losses == (0, 0, 0) and losses.total == 0
        assert patient_loss(run_layers(student, batch).states[1:], theirs.states[1:]) == 0
        student.bert.encoder.layer[1].attention.self.query.weight.mul_(1.5)
        losses = layer_losses(run_layers(student, batch), theirs, batch["attention_mask"], [1, 2])
    assert losses.embedding == 0 and losses.attention > 0 and losses.hidden > 0


def test_each_layer_is_compared_with_the_one_the_map_names() -> None:
    """Off by one, embeddings would be matched with a layer, and every layer with its neighbour."""
    teacher, mask = random_layers(0), torch.ones(2, 5)
    student = Layers(states=(teacher.states[0], teacher.states[2]), scores=(teacher.scores[1],), logits=None)
    assert layer_losses(student, teacher, mask, [2]).total == 0
    other = layer_losses(student, teacher, mask, [1])
    assert other.embedding == 0 and other.hidden > 0 and other.attention > 0


def test_shapes_that_would_be_broadcast_are_refused() -> None:
    ours, theirs, mask = random_layers(0), random_layers(1, heads=1, width=1), torch.ones(2, 5)
    with pytest.raises(ValueError, match="states"):
        hidden_loss(ours.states[0], theirs.states[0], mask)
    with pytest.raises(ValueError, match="scores"):
        attention_loss(ours.scores[0], theirs.scores[0], mask)
    with pytest.raises(ValueError, match="CLS"):
        patient_loss(ours.states, theirs.states)
    with pytest.raises(ValueError, match="attention_mask"):
        hidden_loss(ours.states[0], ours.states[0], mask[:1])
    with pytest.raises(ValueError, match="attention_mask"):
        attention_loss(ours.scores[0], ours.scores[0], mask[:, :1])


# --- the map and the projection ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (12, 4, [3, 6, 9, 12]),
        (12, 6, [2, 4, 6, 8, 10, 12]),
        (6, 3, [2, 4, 6]),
        (6, 4, [2, 3, 4, 6]),
        (12, 5, [2, 5, 7, 10, 12]),
        (12, 1, [12]),
        (2, 2, [1, 2]),
    ],
)
def test_the_map_is_even_and_ends_with_the_last(teacher: int, student: int, expected: list[int]) -> None:
    """TinyBERT's 4 of 12 and 6 of 12; what does not divide is rounded."""
    assert layer_map(teacher, student) == expected


def test_no_layer_is_matched_twice() -> None:
    for teacher in range(1, 25):
        for student in range(1, teacher + 1):
            numbers = layer_map(teacher, student)
            assert numbers == sorted(set(numbers)) and numbers[-1] == teacher and numbers[0] >= 1


def test_layers_taken_from_the_teacher_are_matched_with_themselves_the_last_with_the_last() -> None:
    """A copied layer's heads resemble those of no other layer: matched evenly they would be unlearned."""
    assert layer_map(12, 6, [0, 2, 4, 7, 9, 11]) == [1, 3, 5, 8, 10, 12]
    assert layer_map(12, 1, [0]) == [12]


def test_a_student_deeper_than_its_teacher_is_refused() -> None:
    with pytest.raises(UserError, match=r"student has 6 layers, its teacher only 3.*--layers"):
        layer_map(3, 6)


def test_the_projection_is_one_matrix_for_states_and_nothing_where_widths_are_equal() -> None:
    """A projection per layer, or one of the scores, would be another method."""
    student, batch = tiny_bert(), padded_batch()
    wide = Projected(student, 24, 36)
    own = {name for name, _ in wide.named_parameters() if not name.startswith("student.")}
    assert own == {"projection.weight"}
    seen, raw = wide(batch), run_layers(student, batch)
    for projected, states in zip(seen.states, raw.states, strict=True):
        torch.testing.assert_close(projected, states @ wide.projection.weight.T)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(seen.scores[0], raw.scores[0])
    same = Projected(student, 24, 24)
    assert len(list(same.parameters())) == len(list(student.parameters()))
    torch.testing.assert_close(same(batch).states[1], raw.states[1])


@pytest.mark.parametrize(
    ("kind", "options", "scores"),
    [
        ("bart", {"decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}, True),
        ("bart", {"decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}, False),
        ("t5", {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}, True),
        ("qwen2", {"num_key_value_heads": 1}, True),
    ],
)
def test_a_model_whose_layers_cannot_be_matched_is_refused(
    kind: str, options: dict[str, Any], scores: bool
) -> None:
    """Encoders with a decoder, and heads that share their keys, are no UserError of their own accord."""
    batch = {"input_ids": torch.tensor([[2, 2]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    with pytest.raises(UserError, match="--method logits"):
        run_layers(family(kind, **options).eval(), batch, scores=scores)
