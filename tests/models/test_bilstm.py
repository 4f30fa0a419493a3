"""The BiLSTM is torch's own, reads each row by itself, and is an ordinary transformers model."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEVICES, family
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModel, AutoModelForSequenceClassification

from distilkit.data.encoding import make_full_mask
from distilkit.hardware.dropout import keep_random_state
from distilkit.models import bilstm
from distilkit.models.bilstm import (
    BiLSTMConfig,
    BiLSTMForSequenceClassification,
    BiLSTMModel,
    Dropout,
    compact,
)

LENGTHS = [3, 7, 1, 5]
POOLINGS = pytest.mark.parametrize("pooling", ["last", "max", "both"])


def small(**options: Any) -> BiLSTMForSequenceClassification:
    """A BiLSTM of a few dimensions, in eval mode."""
    torch.manual_seed(0)
    config = BiLSTMConfig(
        vocab_size=40, embedding_size=6, hidden_size=5, head_size=7, num_labels=3, **options
    )
    model = BiLSTMForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weight" in name:
                parameter.mul_(3)  # so that a difference in the input is one in the logits
            else:
                parameter.uniform_(-0.5, 0.5)
    return model


def sentences(lengths: list[int], seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 40, (length,), generator=random) for length in lengths]


def padded(rows: list[Tensor], width: int, side: str = "right") -> dict[str, Tensor]:
    """Rows in a rectangle of `width`, and its mask."""
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width).long()
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    device = next(model.parameters()).device
    with torch.no_grad():
        logits: Tensor = model(**{name: value.to(device) for name, value in batch.items()}).logits
    return logits.cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("layers", [1, 2])
@POOLINGS
def test_padding_and_batch_mates_reach_no_logit(pooling: str, layers: int, side: str, device: str) -> None:
    """Padding read into a pooled state makes an answer depend on what it happens to be batched with."""
    model, rows = small(num_layers=layers, pooling=pooling).to(device), sentences(LENGTHS)
    alone = torch.cat([logits_of(model, padded([row], len(row))) for row in rows])
    assert torch.pdist(alone).min() > 1e-2
    for width in (7, 12):
        together = logits_of(model, padded(rows, width, side))
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    turned = logits_of(model, padded(rows[::-1], 9, side)).flip(0)
    torch.testing.assert_close(turned, alone, atol=1e-5, rtol=1e-5)


@POOLINGS
def test_padding_reaches_no_logit_in_bf16_either(pooling: str) -> None:
    """Numbers of another format could be masked by something that is not the lowest among them."""
    model, rows = small(num_layers=2, pooling=pooling), sentences(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        alone = torch.cat([logits_of(model, padded([row], len(row))) for row in rows])
        together = logits_of(model, padded(rows, 12))
    assert torch.pdist(alone.float()).min() > 0.1
    torch.testing.assert_close(together, alone, atol=3e-2, rtol=3e-2)


@POOLINGS
def test_what_stands_in_the_padding_does_not_matter(pooling: str) -> None:
    model, batch = small(num_layers=2, pooling=pooling), padded(sentences(LENGTHS), 9)
    rubbish = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 17)
    other = {"input_ids": rubbish, "attention_mask": batch["attention_mask"]}
    torch.testing.assert_close(logits_of(model, other), logits_of(model, batch), atol=1e-6, rtol=1e-6)


def test_without_a_mask_the_padding_id_is_the_mask() -> None:
    model, batch = small(num_layers=2), padded(sentences(LENGTHS), 9)
    bare = logits_of(model, {"input_ids": batch["input_ids"]})
    torch.testing.assert_close(bare, logits_of(model, batch), atol=1e-6, rtol=1e-6)


def test_the_order_of_words_matters_in_both_directions() -> None:
    """A direction that reads nothing, or only its first token, would pass every test of padding."""
    model = small()
    (row,) = sentences([6])
    states = model.encoder(row[None]).last_hidden_state[0]
    for place in (0, 3, 5):
        changed = row.clone()
        changed[place] = (row[place] + 7) % 39 + 1
        other = model.encoder(changed[None]).last_hidden_state[0]
        for direction in (slice(0, 5), slice(5, 10)):
            assert not torch.allclose(states[direction], other[direction], atol=1e-6), place


@pytest.mark.parametrize("layers", [1, 2])
@POOLINGS
def test_it_is_torchs_own_bidirectional_lstm_over_packed_sequences(pooling: str, layers: int) -> None:
    ours = small(num_layers=layers, pooling=pooling).encoder
    theirs = torch.nn.LSTM(6, 5, num_layers=layers, bidirectional=True, batch_first=True)
    weights = {}
    for layer in range(layers):
        for suffix, direction in (("", ours.forwards[layer]), ("_reverse", ours.backwards[layer])):
            for name, value in direction.state_dict().items():
                weights[name.replace("_l0", f"_l{layer}") + suffix] = value
    theirs.load_state_dict(weights)
    batch = padded(sentences(LENGTHS), 9)
    packed = pack_padded_sequence(
        ours.embeddings(batch["input_ids"]), torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    output, (hidden, _) = theirs(packed)
    last = [hidden[-2], hidden[-1]]  # the last layer's two directions
    largest = pad_packed_sequence(output, batch_first=True, padding_value=-9)[0].amax(dim=1).split(5, dim=1)
    parts = {"last": last, "max": largest, "both": [last[0], largest[0], last[1], largest[1]]}
    expected = torch.cat(list(parts[pooling]), dim=1)
    torch.testing.assert_close(ours(**batch).last_hidden_state, expected, atol=1e-6, rtol=1e-5)


def pair(first: Tensor, second: Tensor, width: int) -> dict[str, Tensor]:
    """Two texts end to end, as the tokenizer gives them, padded to `width`."""
    batch = padded([torch.cat([first, second])], width)
    types = torch.zeros(1, width, dtype=torch.int64)
    types[0, len(first) : len(first) + len(second)] = 1
    return batch | {"token_type_ids": types}


@pytest.mark.parametrize("layers", [1, 2])
@POOLINGS
def test_a_pair_is_its_two_texts_encoded_alone_and_combined_by_hand(pooling: str, layers: int) -> None:
    model = small(num_layers=layers, siamese=True, pooling=pooling)
    firsts, seconds = sentences([3, 6, 2], seed=1), sentences([5, 1, 4], seed=2)
    expected = []
    with torch.no_grad():
        for first, second in zip(firsts, seconds, strict=True):
            one = model.encoder(first[None]).last_hidden_state
            two = model.encoder(second[None]).last_hidden_state
            features = torch.cat([one, two, one * two, (one - two).abs()], dim=1)
            expected.append(model.classifier(model.hidden(features).clamp(min=0)))
    alone = [
        logits_of(model, pair(first, second, len(first) + len(second)))
        for first, second in zip(firsts, seconds, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), torch.cat(expected), atol=1e-5, rtol=1e-5)
    batches = [pair(first, second, 15) for first, second in zip(firsts, seconds, strict=True)]
    together = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    torch.testing.assert_close(logits_of(model, together), torch.cat(expected), atol=1e-5, rtol=1e-5)
    turned = [
        logits_of(model, pair(second, first, 15)) for first, second in zip(firsts, seconds, strict=True)
    ]
    assert not torch.allclose(torch.cat(turned), torch.cat(expected), atol=1e-2)


def test_a_siamese_model_says_so_when_the_texts_are_not_told_apart() -> None:
    with pytest.raises(ValueError, match="token_type_ids"):
        small(siamese=True)(**padded(sentences([3]), 3))


@pytest.mark.parametrize("siamese", [False, True])
@POOLINGS
def test_a_row_without_any_token_gives_finite_logits_and_gradients(pooling: str, siamese: bool) -> None:
    """One empty text (or one cut away) must not turn the whole batch into NaN."""
    model = small(siamese=siamese, num_layers=2, pooling=pooling)
    batch = padded([torch.tensor([], dtype=torch.int64), *sentences([4])], 4)
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    logits = model(**batch).logits
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    nothing = {name: value[:1] for name, value in batch.items()}
    torch.testing.assert_close(logits_of(model, nothing), logits[:1].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("siamese", [False, True])
@pytest.mark.parametrize("width", [9, 12])
@POOLINGS
def test_gradient_reaches_every_parameter(pooling: str, width: int, siamese: bool) -> None:
    """A direction, layer or part of the pooling that is cut off stays random, and the student is worse."""
    model = small(siamese=siamese, num_layers=2, pooling=pooling)
    batch = pair(*sentences([4, 5]), width)
    model(**batch).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    inputs = model.hidden.weight.grad.abs().sum(dim=0)
    assert inputs.gt(0).float().mean() > 0.9, "what is pooled reaches the hidden layer"


def test_the_padding_vector_starts_at_zero_and_stays_there_through_training() -> None:
    model = BiLSTMForSequenceClassification(BiLSTMConfig(vocab_size=40, embedding_size=6, hidden_size=5))
    table = model.get_input_embeddings().weight
    assert table[0].abs().sum() == 0 and table[1:].abs().sum(dim=1).min() > 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = table[1:].clone()
    for _ in range(3):
        model(**padded(sentences(LENGTHS), 9), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
    assert table[0].abs().sum() == 0
    assert not torch.equal(table[1:], before)


@pytest.mark.parametrize(
    "options",
    [{}, {"siamese": True, "num_layers": 2}, {"pooling": "both"}, {"pooling": "max", "word_dropout": 0.25}],
    ids=["single", "pairs", "both", "max"],
)
def test_it_comes_back_from_disk_with_equal_logits_and_its_class_names(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Weights that `_init_weights` draws anew after loading would make every reload another model."""
    model = small(**options)
    model.config.id2label = {0: "bad", 1: "fine", 2: "good"}
    model.config.label2id = {"bad": 0, "fine": 1, "good": 2}
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is BiLSTMForSequenceClassification and not again.training
    batch = pair(*sentences([4, 5]), 11)
    assert torch.equal(logits_of(again, batch), logits_of(model, batch))
    assert again.config.id2label == {0: "bad", 1: "fine", 2: "good"}
    for size in ("vocab_size", "embedding_size", "hidden_size", "num_layers", "head_size", "siamese"):
        assert getattr(again.config, size) == getattr(model.config, size)
    assert again.config.pooling == model.config.pooling
    assert again.config.word_dropout == model.config.word_dropout


def test_a_folder_from_before_there_was_a_choice_of_pooling_is_read_as_it_was(tmp_path: Path) -> None:
    """Read in another way, a student that was trained long ago would fail or answer otherwise."""
    model = small(pooling="last")
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    del values["pooling"]
    file.write_text(json.dumps(values))
    again: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    batch = padded(sentences(LENGTHS), 9)
    assert torch.equal(logits_of(again, batch), logits_of(model, batch))


def test_its_body_loads_through_automodel(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is BiLSTMModel
    assert all(torch.equal(value, body.state_dict()[n]) for n, value in model.encoder.state_dict().items())


def test_sizes_are_those_of_the_config() -> None:
    config = BiLSTMConfig()
    assert (config.embedding_size, config.hidden_size, config.head_size, config.num_layers) == (
        300,
        150,
        200,
        1,
    )
    model = small(num_layers=2)
    assert model.get_input_embeddings().weight.shape == (40, 6)
    assert [layer.weight_ih_l0.shape[1] for layer in model.encoder.forwards] == [6, 10]
    assert model.hidden.in_features == 10 and small(siamese=True).hidden.in_features == 40
    assert small(pooling="max").hidden.in_features == 10
    assert small(pooling="both").hidden.in_features == 20
    assert small(pooling="both", siamese=True).hidden.in_features == 80
    assert model.classifier.out_features == 3


def test_dropout_acts_in_training_only() -> None:
    model, batch = small(dropout=0.5), padded(sentences(LENGTHS), 9)
    assert torch.equal(logits_of(model, batch), logits_of(model, batch))
    model.train()
    assert not torch.allclose(logits_of(model, batch), logits_of(model, batch), atol=1e-3)


def test_word_dropout_acts_in_training_only_and_on_other_words_each_time() -> None:
    model, batch = small(dropout=0.0, word_dropout=0.5), padded(sentences(LENGTHS), 9)
    assert torch.equal(logits_of(model, batch), logits_of(small(dropout=0.0), batch))
    model.train()
    assert not torch.allclose(logits_of(model, batch), logits_of(model, batch), atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_word_dropout_hides_whole_words_at_its_rate_and_scales_no_other(
    probability: float, device: str
) -> None:
    """Hidden in part, a word is still read; scaled, every text would look louder in training than after."""
    model = small(dropout=0.0, word_dropout=probability).to(device).train()
    seen: list[Tensor] = []
    model.encoder.dropout.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    rows = torch.stack(sentences([50] * 100)).to(device)
    model(input_ids=rows)
    vectors = model.encoder.embeddings(rows)
    hidden = seen[0].eq(0).all(dim=-1)
    assert torch.equal(seen[0], vectors * ~hidden[..., None])
    deviation = (probability * (1 - probability) / rows.numel()) ** 0.5
    assert hidden.float().mean().item() == pytest.approx(probability, abs=5 * deviation)


def test_word_dropout_hides_the_same_words_for_the_same_seed_beside_dropout_too() -> None:
    """What training hides follows from the seed, and dropout's own numbers are not used twice."""
    batch = padded(sentences(LENGTHS), 9)
    one, same = (small(dropout=0.3, word_dropout=0.4).train() for _ in range(2))
    for _ in range(3):
        assert torch.equal(logits_of(one, batch), logits_of(same, batch))


@pytest.mark.parametrize("probability", [0.0, 1e-9, 1 - 1e-9])
def test_a_word_dropout_of_next_to_nothing_or_all_is_one_that_trains(probability: float) -> None:
    model = small(dropout=0.0, word_dropout=probability).train()
    logits = model(**padded(sentences(LENGTHS), 9)).logits
    logits.sum().backward()
    assert logits.isfinite().all()


def test_labels_add_the_cross_entropy() -> None:
    model, batch, labels = small(), padded(sentences(LENGTHS), 9), torch.tensor([0, 2, 1, 1])
    output = model(**batch, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits, labels)
    assert torch.equal(output.loss, expected)


def test_compact_moves_the_chosen_tokens_to_the_front_in_their_order() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]])
    chosen = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]]).bool()
    moved, lengths = compact(ids, chosen)
    assert lengths.tolist() == [2, 3, 0] and moved.shape == (3, 3)
    assert moved[0, :2].tolist() == [2, 4] and moved[1].tolist() == [5, 6, 7]


# --- rows of one length ------------------------------------------------------------------------------------


@pytest.mark.parametrize("siamese", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@POOLINGS
def test_rows_of_one_length_take_a_short_cut_to_the_same_logits_and_gradients(
    pooling: str, layers: int, siamese: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way without padding is another piece of code: a direction read wrong there would go unseen."""
    rows = sentences([6, 6, 6, 6])
    full = padded(rows, 6) | {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1]] * 4)}
    options = {"num_layers": layers, "siamese": siamese, "dropout": 0.0, "pooling": pooling}
    model, other = (small(**options).train() for _ in range(2))
    taken = []
    original = bilstm._flip
    monkeypatch.setattr(bilstm, "_flip", lambda states: taken.append(1) or original(states))
    quick = model(**full).logits
    assert bool(taken) is not siamese, "the halves of a pair are padded to the whole"
    monkeypatch.setattr(bilstm, "_is_full", lambda mask: False)
    slow = other(**full).logits
    torch.testing.assert_close(quick, slow, atol=1e-6, rtol=1e-5)
    for logits in (quick, slow):
        logits.square().sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("lengths", [[6, 6, 6], [6, 4, 2]], ids=["one length", "padded"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("frozen", [False, True])
@POOLINGS
def test_two_directions_at_once_train_to_the_same_bits(
    pooling: str, layers: int, frozen: bool, lengths: list[int]
) -> None:
    """A student that trains alone on two cores must be the one that trains beside others on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gradients = []
    for uses_spare_core in (False, True):
        model = small(num_layers=layers, dropout=0.3, pooling=pooling, word_dropout=0.2).train()
        model.encoder.embeddings.weight.requires_grad_(not frozen)
        model.encoder.uses_spare_core = uses_spare_core
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**padded(sentences(lengths), 6)).logits
        logits.float().square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.set_num_threads(before)
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("layers", [1, 2])
@POOLINGS
def test_rows_of_one_length_answer_as_beside_longer_ones(pooling: str, layers: int) -> None:
    model, rows = small(num_layers=layers, pooling=pooling), sentences([5, 5, 9])
    together = logits_of(model, padded(rows, 9))
    alone = logits_of(model, padded(rows[:2], 5))
    torch.testing.assert_close(alone, together[:2], atol=1e-6, rtol=1e-5)


def test_the_short_cut_is_taken_only_where_no_row_has_padding() -> None:
    """Taken with padding in one row, that padding would be read as words."""
    mask = torch.ones(3, 4, dtype=torch.int64)
    assert bilstm._is_full(mask) and bilstm._is_full(mask.bool())
    for row, column in ((0, 0), (1, 2), (2, 3)):
        other = mask.clone()
        other[row, column] = 0
        assert not bilstm._is_full(other)
    assert not bilstm._is_full(mask[:, :0])


# --- dropout -----------------------------------------------------------------------------------------------


def dropout(probability: float, seed: int = 0) -> Dropout:
    torch.manual_seed(seed)
    return Dropout(probability)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_dropout_drops_with_its_probability_and_keeps_the_mean(probability: float, device: str) -> None:
    """Another share trains with another regularisation; another scale shifts every activation in training."""
    number = 400_000
    values = torch.ones(number, device=device)
    result = dropout(probability)(values)
    dropped = (result == 0).float().mean().item()
    deviation = (probability * (1 - probability) / number) ** 0.5
    assert dropped == pytest.approx(probability, abs=5 * deviation + 2**-17)
    kept = result[result != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - probability)), atol=0, rtol=1e-3)
    assert result.mean().item() == pytest.approx(1, abs=5 * deviation / (1 - probability))


def test_what_is_kept_is_scaled_by_exactly_what_is_dropped() -> None:
    """0.1 is no multiple of 2^-16: scaled by 0.1 itself, the mean would be off in the sixth digit."""
    layer = dropout(0.1)
    share = layer.dropped / 2**16
    assert share == pytest.approx(0.1, abs=2**-17) and share != 0.1
    kept = layer(torch.ones(1000, dtype=torch.float64)).max().item()
    assert kept == pytest.approx(1 / (1 - share), rel=1e-12)


def test_every_place_is_dropped_on_its_own_whatever_the_shape() -> None:
    """Four numbers are cut from one random word: places dropped together would be less random than told."""
    for shape in ((1000, 8), (1001, 7), (10, 100, 3)):
        layer = dropout(0.5)
        kept = torch.stack([layer(torch.ones(shape)).flatten() for _ in range(200)]).ne(0).float()
        flat = kept[:, :64]
        correlation = torch.corrcoef(flat.T) - torch.eye(64)
        assert correlation.abs().max() < 0.45, "of 200 draws, by chance alone up to 0.3"
        assert kept.mean(dim=0).std() < 2 * (0.25 / 200) ** 0.5
        assert kept.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_the_format_and_passes_the_gradient_of_what_it_kept(dtype: torch.dtype) -> None:
    values = torch.ones(5, 7, dtype=dtype, requires_grad=True)
    result = dropout(0.5)(values)
    assert result.dtype == dtype and result.shape == (5, 7)
    result.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, result.detach())


def test_dropout_is_off_in_eval_mode_and_at_probability_zero() -> None:
    values = torch.randn(100)
    assert torch.equal(dropout(0.5).eval()(values), values)
    assert torch.equal(dropout(0.0)(values), values)


def test_dropout_repeats_with_torchs_seed_when_it_was_made_and_differs_from_draw_to_draw() -> None:
    """Not repeated, no run could be made again; the same each time, it would drop the same places always."""
    values = torch.ones(1000)
    one, same, other = dropout(0.5, 1), dropout(0.5, 1), dropout(0.5, 2)
    torch.manual_seed(99)  # what runs later must not matter
    first, second = one(values), one(values)
    torch.rand(5)
    assert torch.equal(same(values), first) and torch.equal(same(values), second)
    assert not torch.equal(first, second) and not torch.equal(other(values), first)
    torch.manual_seed(1)
    layers = Dropout(0.5), Dropout(0.5)
    assert not torch.equal(layers[0](values), layers[1](values)), "two layers of a model drop other places"


def test_dropout_draws_nothing_from_torchs_own_numbers() -> None:
    """Students that train side by side would take each other's, and no run would be what it is alone."""
    layer, values = dropout(0.5), torch.ones(100)
    before = torch.get_rng_state()
    layer(values)
    copy.deepcopy(layer)(values)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_a_copy_starts_the_same_numbers_from_the_beginning(training: bool) -> None:
    """A generator cannot be copied; a copy must not share it either, and draw from the original's."""
    layer, values = dropout(0.5), torch.ones(1000)
    first, second = layer(values), layer(values)
    again = copy.deepcopy(layer.train(training))
    assert again.training is training
    again.train()
    assert torch.equal(again(values), first) and torch.equal(again(values), second)
    layer.train()
    assert not torch.equal(layer(values), first), "the original goes on"


def test_a_copied_model_drops_as_the_original_did() -> None:
    """bf16 predictions copy the model in the middle of a training, which must not change it."""
    batch = padded(sentences(LENGTHS), 9)
    model, twin = small(dropout=0.5).train(), small(dropout=0.5).train()
    first = logits_of(model, batch)
    assert torch.equal(logits_of(copy.deepcopy(model), batch), first)
    assert torch.equal(logits_of(twin, batch), first)
    assert torch.equal(logits_of(twin, batch), logits_of(model, batch))


def test_dropout_comes_back_from_disk_and_leaves_no_trace_in_the_weights(tmp_path: Path) -> None:
    """A generator among the weights would make a file that others cannot read."""
    model = small(dropout=0.25)
    assert not [name for name in model.state_dict() if "dropout" in name]
    model.save_pretrained(tmp_path)
    again: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.dropout.dropped == model.dropout.dropped == 2**14


# --- CUDA --------------------------------------------------------------------------------------------------


class PretendedCuda(Tensor):
    """A tensor of the CPU that says it is on CUDA, as does all that is made of it."""

    device = torch.device("cuda:0")


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_cuda_autocast_leaves_the_lstm_in_fp32(
    trains: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast to bf16 would run it in fp16 without a loss scale, and the run would still say bf16.

    Told to train where nothing does, cuDNN would keep what a backward pass reads.
    """
    calls: list[tuple[Any, ...]] = []

    def record(inputs: Tensor, states: Any, weights: Any, *rest: Any) -> Any:
        dtypes = {inputs.dtype, *(state.dtype for state in states), *(weight.dtype for weight in weights)}
        calls.append((dtypes, torch.is_autocast_enabled("cuda"), rest[3]))
        return inputs.new_zeros(*inputs.shape[:2], weights[1].shape[1]), *states

    monkeypatch.setattr(torch, "lstm", record)
    weights = tuple(torch.nn.LSTM(6, 5).parameters())
    states = torch.ones(4, 9, 6, dtype=dtype).as_subclass(PretendedCuda)
    enabled, before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    try:  # `torch.autocast` refuses where there is no CUDA
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", dtype)
        with torch.set_grad_enabled(trains):
            bilstm._read(bilstm._flip, bilstm._last, states, *weights)
        assert torch.is_autocast_enabled("cuda"), "the rest is autocast"
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", before)
    assert calls == [({torch.float32}, False, trains)]
    with torch.no_grad():
        bilstm._read(bilstm._flip, bilstm._last, torch.ones(4, 9, 6), *weights)
    assert calls[1] == ({torch.float32}, False, True), "on a CPU nothing changes"


def test_on_cuda_a_batch_known_to_be_full_is_not_sorted() -> None:
    """Nothing waits for the device either way; known to be full, it takes a dozen kernels less."""
    model = small()
    full = make_full_mask(4, 9, torch.device("cpu"))
    meta = torch.device("meta")
    assert bilstm._is_full(make_full_mask(4, 9, meta))
    assert not bilstm._is_full(torch.ones(4, 9, device=meta))
    rows = torch.stack(sentences([9] * 4))
    expected = logits_of(model, {"input_ids": rows, "attention_mask": torch.ones_like(rows)})
    assert torch.equal(logits_of(model, {"input_ids": rows, "attention_mask": full}), expected)


@pytest.mark.parametrize("hidden", [128, 150, 192, 256, 300])
def test_gradients_at_real_sizes_are_those_of_float64(hidden: int, device: torch.device) -> None:
    """cuDNN takes other kernels at these sizes, and another forward than backward at some of them."""
    torch.manual_seed(0)
    config = BiLSTMConfig(vocab_size=50, embedding_size=hidden, hidden_size=hidden, dropout=0.0)
    model = BiLSTMForSequenceClassification(config)
    batch = padded(sentences([12, 3, 30, 7]), 30)
    gradients = []
    for copied, where in ((copy.deepcopy(model).double(), torch.device("cpu")), (model, device)):
        copied.to(where)
        logits = copied(**{name: values.to(where) for name, values in batch.items()}).logits
        (logits.double() * torch.tensor([[1.0, -2.0]], device=where).double()).sum().backward()
        gradients.append({name: p.grad.double().cpu() for name, p in copied.named_parameters()})
    within = 1e-4 if device.type == "cpu" else 2e-2  # TF32 keeps 10 bits
    for name, exact in gradients[0].items():
        assert (gradients[1][name] - exact).norm() <= within * exact.norm() + 1e-9, name


def test_an_lstm_that_cudnn_has_flattened_saves_and_loads(tmp_path: Path, device: torch.device) -> None:
    """Flattened, its weights are views of one tensor, which safetensors would refuse as shared memory."""
    model = small(num_layers=2).to(device)
    if device.type == "cpu":  # as cuDNN leaves them
        for lstm in (*model.encoder.forwards, *model.encoder.backwards):
            flat = torch.cat([weight.detach().flatten() for weight in lstm._flat_weights])
            for weight, part in zip(
                lstm._flat_weights, flat.split([w.numel() for w in lstm._flat_weights]), strict=True
            ):
                weight.data = part.view_as(weight)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.cpu()), name


@pytest.mark.parametrize("device_name", DEVICES)
def test_dropout_draws_from_its_seed_and_not_from_torchs_generators(device_name: str) -> None:
    """Students trained at once would otherwise draw other numbers than each alone."""
    values = torch.ones(64, 32, device=device_name)
    torch.manual_seed(1)
    first = Dropout(0.5).train()
    torch.manual_seed(1)
    second = Dropout(0.5).train()
    results = []
    for dropout in (first, second):
        torch.rand(7, device=device_name)
        results.append([dropout(values), dropout(values)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert not torch.equal(*results[0])
    assert torch.equal(copy.deepcopy(first)(values), results[0][0]), "a copy starts again"


@pytest.mark.parametrize("device_name", DEVICES)
def test_a_rehearsal_leaves_the_random_numbers_of_training_as_they_are(device_name: str) -> None:
    """Drawn from, they would make the trained student depend on how much memory was tried out."""
    values, where = torch.ones(64, device=device_name), torch.device(device_name)
    dropouts = torch.nn.Sequential(Dropout(0.5), torch.nn.Dropout(0.5)).train()
    expected = copy.deepcopy(dropouts)
    for model in (dropouts, expected):
        model[0](values)
        if model is dropouts:
            with keep_random_state(model, where):
                assert not torch.equal(model(values), values)
        torch.manual_seed(3)
        if model is dropouts:
            with keep_random_state(model, where):
                model(values)
        results = [model(values) for _ in range(2)]
        if model is dropouts:
            rehearsed = results
    assert all(torch.equal(one, other) for one, other in zip(rehearsed, results, strict=True))


@pytest.mark.parametrize("siamese", [False, True])
@pytest.mark.parametrize("mask", [None, torch.ones(1, 0)])
def test_a_text_without_tokens_is_answered_as_padding_is(siamese: bool, mask: Tensor | None) -> None:
    """`pipeline` hands over an empty text as float ids `[1, 0]`, which no embedding takes."""
    model: Any = family("bilstm", siamese=siamese).eval()
    types = torch.zeros(1, 0) if siamese else None
    with torch.no_grad():
        empty = model(torch.zeros(1, 0), attention_mask=mask, token_type_ids=types).logits
        padding = torch.full((1, 1), model.config.pad_token_id)
        types = torch.zeros_like(padding) if siamese else None
        expected = model(padding, attention_mask=torch.zeros_like(padding), token_type_ids=types).logits
        encoder = model.encoder(torch.zeros(1, 0)).last_hidden_state
    assert torch.equal(empty, expected) and encoder.shape == (1, model.config.text_size)
