"""The faster kernels answer what the ordinary ones do, and leave alone what they do not know."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from conftest import lively, needs_cuda, tiny_bert, tiny_tokenizer
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
    T5Config,
)

from distilkit.data.encoding import leave_out_full_mask, make_full_mask
from distilkit.hardware import kernels
from distilkit.hardware.kernels import (
    FastAttention,
    FastDropout,
    cuda_attention,
    fast_dropout,
    forward_context,
    packed_attention,
)

SIZES: dict[str, Any] = {"vocab_size": 40, "pad_token_id": 0}
NARROW = SIZES | {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def tiny(kind: str) -> Any:
    """A random classifier of two layers that answers each text differently."""
    configs: dict[str, Any] = {
        "distilbert": lambda: DistilBertConfig(**SIZES, dim=24, n_layers=2, n_heads=2, hidden_dim=48),
        "roberta": lambda: RobertaConfig(**NARROW, max_position_embeddings=80),
        "electra": lambda: ElectraConfig(**NARROW, embedding_size=24),
    }
    if kind == "bert":
        return lively(tiny_bert())
    torch.manual_seed(0)
    return lively(AutoModelForSequenceClassification.from_config(configs[kind]()).eval(), factor=10)


def batch(rows: int, longest: int, padded: bool) -> dict[str, Tensor]:
    """Random token ids, the first row in full length, the others shorter where `padded`."""
    generator = torch.Generator().manual_seed(rows * longest)
    ids = torch.randint(5, len(tiny_tokenizer()), (rows, longest), generator=generator)
    lengths = (
        torch.randint(1, longest + 1, (rows,), generator=generator) if padded else torch.tensor([longest])
    )
    lengths[0] = longest
    mask = (torch.arange(longest) < lengths[:, None]).expand(rows, longest)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """The shapes that `packed_attention` is called with."""
    shapes: list[torch.Size] = []

    def count(query: Tensor, *others: Any) -> Tensor:
        shapes.append(query.shape)
        return packed_attention(query, *others)

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "packed_attention", count)
        yield shapes


@pytest.mark.parametrize("length", [1, 2, 3, 5, 10, 15, 16, 17, 22, 31])
@pytest.mark.parametrize("kind", ["none", "keys", "pairs", "added"])
def test_packed_attention_is_attention_row_by_row(length: int, kind: str) -> None:
    """A key of a neighbour shown, or a row answered in another's place, would change the logits a little."""
    torch.manual_seed(length)
    for rows in (64 // length + 1, 65, 67):
        query, key, value = torch.randn(3, rows, length, 3, 8).transpose(2, 3)
        mask: Any = None
        if kind == "keys":
            mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1, 1, 1))
        elif kind == "pairs":
            mask = torch.rand(rows, 1, length, length) < 0.7
            mask |= torch.eye(length, dtype=torch.bool)
        elif kind == "added":
            mask = torch.randn(rows, 1, length, length)
        expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
        found = packed_attention(query, key, value, mask, 0.3)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
def test_encoders_answer_the_same(kind: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind)
    for longest in (5, 12, 20):
        inputs = batch(40, longest, padded)
        with torch.inference_mode():
            expected = model(**inputs).logits
            with counted(monkeypatch) as shapes, FastAttention():
                found = model(**inputs).logits
        assert len(shapes) == 2, "both layers are packed"
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (expected - expected.mean(0)).abs().amax() > 1e-3, "rows differ, so a mix-up would show"


def test_rows_do_not_depend_on_which_are_packed_beside_them() -> None:
    model = tiny("bert").bfloat16()
    inputs = batch(40, 9, padded=False)
    with torch.inference_mode(), FastAttention():
        logits = model(**inputs).logits
        inputs["input_ids"][1:] = inputs["input_ids"][1:].flip(0)
        torch.testing.assert_close(model(**inputs).logits[0], logits[0], atol=0.03, rtol=0.03)


def attention(**changes: Any) -> dict[str, Any]:
    """Arguments that would be packed, but for `changes`."""
    shape = changes.pop("shape", (40, 3, 10, 8))
    query, key, value = torch.randn(3, *shape)
    return {"query": query, "key": key, "value": value} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"is_causal": True},
        {"dropout_p": 0.5},
        {"attn_mask": torch.randn(1, 3, 10, 10)},  # a bias of positions, another for every head
        {"attn_mask": torch.randn(10, 10)},
        {"key": torch.randn(40, 3, 12, 8), "value": torch.randn(40, 3, 12, 8)},  # of another text
        {"key": torch.randn(40, 1, 10, 8), "value": torch.randn(40, 1, 10, 8), "enable_gqa": True},
        {"shape": (40, 3, 32, 8)},  # long
        {"shape": (2, 3, 10, 8)},  # few
        {"shape": (40, 10, 8)},
    ],
)
def test_other_attention_goes_the_ordinary_way(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    arguments = attention(**changes)
    tensors = [arguments.pop(name) for name in ("query", "key", "value")]
    torch.manual_seed(1)
    expected = scaled_dot_product_attention(*tensors, **arguments)
    torch.manual_seed(1)
    with counted(monkeypatch) as shapes, FastAttention():
        found = scaled_dot_product_attention(*tensors, **arguments)
    assert not shapes and torch.equal(found, expected)


def test_a_model_with_a_bias_of_positions_answers_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40,
        d_model=24,
        d_kv=12,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        eos_token_id=4,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    inputs = batch(40, 10, padded=False)
    inputs["input_ids"][:, -1] = 4
    with torch.inference_mode():
        expected = model(**inputs).logits
        with counted(monkeypatch) as shapes, FastAttention():
            found = model(**inputs).logits
    assert not shapes and torch.equal(found, expected)


# --- dropout in training -----------------------------------------------------------------------------------


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    values = torch.ones(500, 400, requires_grad=True)
    with FastDropout():
        found = nn.Dropout(0.1)(values)
    found.sum().backward()
    assert values.grad is not None
    assert abs(float((found == 0).float().mean()) - 0.1) < 0.005
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.9]), atol=1e-4, rtol=0)
    assert torch.equal(found.detach(), values.grad), "the same values are dropped on the way back"


@pytest.mark.parametrize("module", [nn.Dropout(0.5).eval(), nn.Dropout(0.0), nn.Dropout(1.0)])
def test_dropout_that_leaves_nothing_to_chance_is_exact(module: nn.Dropout) -> None:
    values = torch.randn(5, 8)
    with FastDropout():
        assert torch.equal(module(values), torch.zeros(5, 8) if module.p == 1 else values)


def test_dropout_in_place_stays_in_place() -> None:
    values = torch.ones(40)
    with FastDropout():
        assert dropout(values, 0.5, inplace=True) is values and (values == 0).any()


@pytest.mark.parametrize("kind", ["none", "keys", "added"])
def test_attention_with_dropout_is_attention_in_expectation(kind: str) -> None:
    """The mean over many draws: weights dropped before the softmax, or not scaled, would give another."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 3, 10, 8)
    masks: dict[str, Any] = {
        "none": None,
        "keys": torch.arange(10) < torch.tensor([10, 3, 7, 1])[:, None, None, None],
        "added": torch.randn(4, 1, 10, 10),
    }
    mask = masks[kind]
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.4)
    with FastDropout():
        draws = [
            scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.2, scale=0.4)
            for _ in range(3000)
        ]
        tiny = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=1e-9, scale=0.4)
        plain = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=1e-9)
    torch.testing.assert_close(torch.stack(draws).mean(0), expected, atol=0.08, rtol=0)
    assert not torch.equal(draws[0], draws[1])
    assert (draws[0] != 0).all() or kind == "keys", "weights are dropped, not what they add up to"
    torch.testing.assert_close(tiny, expected, atol=1e-5, rtol=1e-5)
    ordinary = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(plain, ordinary, atol=1e-5, rtol=1e-5)


def test_causal_attention_with_dropout_goes_the_ordinary_way() -> None:
    query, key, value = torch.randn(3, 4, 3, 10, 8)
    answers = []
    for context in (nullcontext(), FastDropout()):
        torch.manual_seed(1)
        with context:
            answers.append(scaled_dot_product_attention(query, key, value, dropout_p=0.2, is_causal=True))
    assert torch.equal(*answers)


def gradients(model: Any, context: Any) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of one step in training mode."""
    model.train().zero_grad()
    inputs = batch(8, 12, padded=True)
    with context:
        loss = model(**inputs, labels=torch.arange(8) % 2).loss
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_encoders_train_the_same_but_for_what_is_dropped(kind: str) -> None:
    """With so little dropped that nothing is, loss and gradients are those of torch's own kernels."""
    model = tiny(kind)
    names = list(model.state_dict())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1e-9
    expected = gradients(model, nullcontext())
    torch.testing.assert_close(
        gradients(model, fast_dropout(model, torch.device("cpu"))), expected, atol=1e-4, rtol=1e-3
    )
    assert list(model.state_dict()) == names


def test_what_is_dropped_follows_from_the_seed_at_the_start_alone() -> None:
    """A run that depended on what else draws random numbers could not be repeated."""
    model = tiny("bert")
    losses = []
    for seed, drawn in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(seed)
        context = FastDropout()
        torch.rand(drawn)
        losses.append(gradients(model, context)[0])
    assert losses[0] == losses[1] != losses[2]


def test_dropout_is_left_to_torch_where_it_must_be() -> None:
    """Layers computed again on the way back would drop other values than before, and a GPU has its own."""
    model, cpu = tiny_bert(), torch.device("cpu")
    assert isinstance(fast_dropout(model, cpu), FastDropout)
    assert not isinstance(fast_dropout(model, torch.device("cuda")), FastDropout)
    assert not isinstance(fast_dropout(nn.Linear(2, 2), cpu), FastDropout)
    model.bert.encoder.layer[0].gradient_checkpointing = True
    assert not isinstance(fast_dropout(model, cpu), FastDropout)


# --- CUDA --------------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts how often a value is read from the device, for which the host has to wait."""

    READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in self.READS
        return func(*args, **(kwargs or {}))


def test_cudnns_attention_is_off_within_and_as_before_after_an_error_too() -> None:
    """On an H100 it plans every new shape of a batch for a few tenths of a second."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    for device, expected in (("cuda", False), ("cpu", before)):
        with pytest.raises(KeyError), forward_context(torch.device(device), "fp32"):
            assert torch.backends.cuda.cudnn_sdp_enabled() is expected
            raise KeyError
        assert torch.backends.cuda.cudnn_sdp_enabled() is before


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
@pytest.mark.parametrize("padded", [True, False])
def test_no_mask_is_read_back_and_logits_stay_the_same(kind: str, padded: bool) -> None:
    """Reading it, the host waits in every pass for all that the device has still to do."""
    model, inputs = tiny(kind), batch(6, 9, padded)
    with torch.no_grad():
        with Waits() as ordinary:
            expected = model(**inputs).logits
        with cuda_attention(), Waits() as waits:
            logits = model(**inputs).logits
    assert ordinary.count > 0, "transformers reads it"
    assert waits.count == 0
    torch.testing.assert_close(logits, expected)
    with torch.no_grad(), Waits() as afterwards:
        model(**inputs)
    assert afterwards.count == ordinary.count, "and does so again"


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
def test_a_batch_without_padding_is_attended_without_a_mask(kind: str) -> None:
    """With one, CUDA's fast attention without a mask is not taken, for nine batches of ten of short texts."""
    model, inputs = tiny(kind), batch(6, 9, padded=False)
    full = inputs | {"attention_mask": make_full_mask(6, 9, torch.device("cpu"))}
    masks: list[Any] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is scaled_dot_product_attention:
                masks.append((kwargs or {}).get("attn_mask"))
            return func(*args, **(kwargs or {}))

    with torch.no_grad():
        expected = model(**inputs).logits
        with cuda_attention(), Waits() as waits, Watch():
            logits = model(**leave_out_full_mask(model, full)).logits
    assert masks == [None, None] and waits.count == 0
    assert torch.equal(logits, expected)


@pytest.mark.cuda
@needs_cuda
def test_cuda_takes_another_attention_than_cudnns() -> None:
    """Named by torch itself: 0 math, 1 flash, 2 efficient, 3 cuDNN."""
    query = torch.randn(3, 4, 17, 64, device="cuda", dtype=torch.bfloat16)
    with cuda_attention():
        assert torch._fused_sdp_choice(query, query, query) in (0, 1, 2)


@pytest.mark.cuda
@needs_cuda
def test_a_shape_that_was_never_seen_takes_no_longer_than_a_launch() -> None:
    """A plan of cuDNN's takes hundreds of times as long as the same shape again."""
    query = torch.randn(3, 4, 18, 64, device="cuda", dtype=torch.bfloat16)
    with cuda_attention():
        scaled_dot_product_attention(query, query, query)
        seconds = []
        for rows in (5, 7, 11, 13):
            values = torch.randn(rows, 4, 23 + rows, 64, device="cuda", dtype=torch.bfloat16)
            torch.cuda.synchronize()
            started = time.perf_counter()
            scaled_dot_product_attention(values, values, values)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[1] < 0.1
