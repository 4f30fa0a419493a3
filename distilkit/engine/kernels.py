"""The same numbers from a CPU's faster kernels, whatever model asks for them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from distilkit.models.dropout import draw, drop

KEYS = 32  # the number of keys that torch's CPU attention is fastest with


class FastKernels(TorchFunctionMode):
    """Within it, a thread's attention over short rows and its bf16 linear layers take less time on a CPU.

    For forward passes without gradients. Calls that it does not know to be the same go the ordinary way.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is linear and not kwargs and _is_plain_bf16(*args):
            # `linear` copies its bias into the output before every product; this adds it at the end.
            return torch.ops.mkldnn._linear_pointwise(*args, "none", [], "")
        if func is scaled_dot_product_attention and len(args) == 3 and _is_short(*args, **kwargs):
            query, key, value = args
            return packed_attention(query, key, value, kwargs.get("attn_mask"), kwargs.get("scale"))
        return func(*args, **kwargs)


class FastDropout(TorchFunctionMode):
    """Within it, dropout takes a CPU less time, also that of attention: other numbers, equally distributed.

    The numbers follow from torch's seed when this is made, and from nothing else that runs later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is dropout and len(args) == 1 and kwargs.get("training", True) and not kwargs.get("inplace"):
            return self._drop(args[0], kwargs.get("p", 0.5))
        if func is scaled_dot_product_attention and len(args) == 3 and _has_only_dropout(*args, **kwargs):
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _drop(self, values: Tensor, probability: float) -> Tensor:
        dropped = round(probability * 2**16)
        if dropped in (0, 2**16) or values.device.type != "cpu":
            return dropout(values, probability)
        return drop(values, dropped, draw(values.numel(), self.generator).view(values.shape))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        dropout_p: float,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
        **_: Any,
    ) -> Tensor:
        """As torch's on a CPU, which no fast kernel serves, but in the format of its inputs throughout."""
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = torch.softmax(scores, dim=-1).to(value.dtype)
        return self._drop(weights, dropout_p) @ value


def fast_dropout(model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """What training steps on a CPU run forward in; nothing where there is no dropout of torch's.

    Nor where a backward pass computes layers again, which has to drop the same values.
    """
    known = any(isinstance(module, nn.Dropout) for module in model.modules())
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return FastDropout() if device.type == "cpu" and known and not again else nullcontext()


def _has_only_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Whether dropout is all that this attention has beside a mask."""
    return query.device.type == "cpu" and dropout_p > 0 and not (is_causal or enable_gqa)


def _is_plain_bf16(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return (
        bias is not None
        and values.dtype == weight.dtype == bias.dtype == torch.bfloat16
        and values.device.type == "cpu"
        and values.numel() > 0
        and type(weight) is type(bias) is nn.Parameter
        and _has_bf16_linear()
    )


@cache
def _has_bf16_linear() -> bool:
    """Whether this torch, on this CPU, has the private operation that is used here."""
    ops: Any = torch.ops.mkldnn
    return hasattr(ops, "_linear_pointwise") and bool(ops._is_mkldnn_bf16_supported())


def _is_short(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Whether `packed_attention` answers the same, in less time."""
    rows, length = query.shape[0], query.shape[-2]
    return (
        query.device.type == "cpu"
        and query.ndim == 4
        and query.shape == key.shape == value.shape
        and length < KEYS
        and rows * length >= 2 * KEYS
        and not (is_causal or dropout_p or enable_gqa)
        and (attn_mask is None or attn_mask.shape in ((rows, 1, 1, length), (rows, 1, length, length)))
    )


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """`scaled_dot_product_attention` over rows shorter than 32, several of them computed as one.

    The time that a row takes on a CPU hardly depends on how short it is, and doubles where the number of keys
    is no multiple of 16. So `32 // length` rows after one another, which in memory are a longer row, read the
    32 keys from the first one's on, each through a mask that shows it its own.

    Args:
        query: `[N, heads, length, width]`, as are `key` and `value`.
        mask: of `[N, 1, 1, length]` or `[N, 1, length, length]`: bool, true where a query reads a key, or
            what is added to the scores.

    Returns:
        `[N, heads, length, width]`, a transposed `[N, length, heads, width]`.
    """
    rows, heads, length, width = query.shape
    group = KEYS // length
    groups = (rows * length - KEYS) // (group * length) + 1  # as many as have 32 keys to read
    inside = groups * group
    queries = query.transpose(1, 2)[:inside].reshape(groups, group * length, heads, width).transpose(1, 2)
    keys, values = (
        states.transpose(1, 2).flatten(0, 1).unfold(0, KEYS, group * length).transpose(-1, -2)
        for states in (key, value)
    )
    shown = _blocks(length, query.dtype)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        shown = shown.view(1, group, length, KEYS).repeat(groups, 1, 1, 1)
        own = mask[:inside].expand(-1, -1, length, -1).reshape(groups, group, length, length)
        for place in range(group):
            shown[:, place, :, place * length : (place + 1) * length] = own[:, place]
        shown = shown.view(groups, 1, group * length, KEYS)
    found = scaled_dot_product_attention(queries, keys, values, attn_mask=shown, scale=scale)
    found = found.transpose(1, 2).reshape(inside, length, heads, width)
    if inside < rows:
        rest = scaled_dot_product_attention(
            query[inside:],
            key[inside:],
            value[inside:],
            attn_mask=None if mask is None else mask[inside:],
            scale=scale,
        )
        found = torch.cat([found, rest.transpose(1, 2)])
    return found.transpose(1, 2)


@cache
def _blocks(length: int, dtype: torch.dtype) -> Tensor:
    """What hides from the queries of as many rows as fit into 32 keys the keys of all rows but their own."""
    with torch.inference_mode(False):
        queries = torch.arange(KEYS // length * length)[:, None]
        other = queries // length != torch.arange(KEYS) // length
        return torch.zeros(other.shape, dtype=dtype).masked_fill_(other, float("-inf"))
