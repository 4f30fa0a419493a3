"""Attention and dropout in less time, whatever model asks for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from distilkit.hardware.dropout import draw, drop
from distilkit.hardware.precision import Resolved, autocast

KEYS = 32  # the number of keys that torch's CPU attention is fastest with


@contextmanager
def forward_context(device: torch.device, precision: Resolved) -> Iterator[None]:
    """Enter what every forward pass runs in: its number format, and on CUDA attention that starts at once."""
    with autocast(device, precision), cuda_attention() if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def cuda_attention() -> Iterator[None]:
    """Compute attention within it without cuDNN, and without reading a mask back from the device.

    On compute capability 9.0 and 10.x torch prefers cuDNN, which plans every new shape for a few tenths of a
    second, and most batches have a shape of their own. And transformers asks each mask whether it hides
    anything: the answer has to wait for all that the device has still to do. Here a mask that is given is
    used; one that hides nothing is better left out (`leave_out_full_mask`).
    """
    was_enabled, make_mask = torch.backends.cuda.cudnn_sdp_enabled(), ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    torch.backends.cuda.enable_cudnn_sdp(False)
    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = partial(_make_mask_unasked, make_mask)
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = make_mask
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


def _make_mask_unasked(make_mask: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Make a mask as transformers does, without asking whether it could be left out."""
    if options.get("attention_mask") is not None:
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return make_mask(*args, **options)


class FastAttention(TorchFunctionMode):
    """Within it, a thread's attention over short rows takes less time on a CPU.

    For forward passes without gradients. Calls that it does not know to be the same go the ordinary way.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and len(args) == 3:
            call = _Attention(*args, **kwargs)
            if call.is_short:
                return packed_attention(call.query, call.key, call.value, call.attn_mask, call.scale)
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
        if func is scaled_dot_product_attention and len(args) == 3:
            call = _Attention(*args, **kwargs)
            if call.has_only_dropout:
                return self._attend(call)
        return func(*args, **kwargs)

    def _drop(self, values: Tensor, probability: float) -> Tensor:
        dropped = round(probability * 2**16)
        if dropped in (0, 2**16) or values.device.type != "cpu":
            return dropout(values, probability)
        return drop(values, dropped, draw(values.numel(), self.generator).view(values.shape))

    def _attend(self, call: "_Attention") -> Tensor:
        """Attend as torch does on a CPU, where no fast kernel covers dropout, in the format of the inputs."""
        scale = call.query.shape[-1] ** -0.5 if call.scale is None else call.scale
        scores, mask = (call.query * scale) @ call.key.transpose(-1, -2), call.attn_mask
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            scores = scores + mask
        weights = torch.softmax(scores, dim=-1).to(call.value.dtype)
        return self._drop(weights, call.dropout_p) @ call.value


def fast_dropout(model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context for forward passes of training on a CPU; a null context without torch's dropout.

    Null too where the backward pass computes layers again, which has to drop the same values.
    """
    has_dropout = any(isinstance(module, nn.Dropout) for module in model.modules())
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return FastDropout() if device.type == "cpu" and has_dropout and not recomputes else nullcontext()


class _Attention(NamedTuple):
    """A call of `scaled_dot_product_attention`, with its defaults."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    @property
    def has_only_dropout(self) -> bool:
        """Return whether, on a CPU, the call has dropout and at most a mask."""
        on_cpu = self.query.device.type == "cpu"
        return on_cpu and self.dropout_p > 0 and not (self.is_causal or self.enable_gqa)

    @property
    def is_short(self) -> bool:
        """Return whether `packed_attention` gives the same result in less time."""
        rows, length = self.query.shape[0], self.query.shape[-2]
        return (
            self.query.device.type == "cpu"
            and self.query.ndim == 4
            and self.query.shape == self.key.shape == self.value.shape
            and length < KEYS
            and rows * length >= 2 * KEYS
            and not (self.is_causal or self.dropout_p or self.enable_gqa)
            and (
                self.attn_mask is None
                or self.attn_mask.shape in ((rows, 1, 1, length), (rows, 1, length, length))
            )
        )


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Compute `scaled_dot_product_attention` over rows shorter than 32, several of them as one.

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
        row_masks = mask[:inside].expand(-1, -1, length, -1).reshape(groups, group, length, length)
        for row in range(group):
            shown[:, row, :, row * length : (row + 1) * length] = row_masks[:, row]
        shown = shown.view(groups, 1, group * length, KEYS)
    outputs = scaled_dot_product_attention(queries, keys, values, attn_mask=shown, scale=scale)
    outputs = outputs.transpose(1, 2).reshape(inside, length, heads, width)
    if inside < rows:
        rest = scaled_dot_product_attention(
            query[inside:],
            key[inside:],
            value[inside:],
            attn_mask=None if mask is None else mask[inside:],
            scale=scale,
        )
        outputs = torch.cat([outputs, rest.transpose(1, 2)])
    return outputs.transpose(1, 2)


@cache
def _blocks(length: int, dtype: torch.dtype) -> Tensor:
    """Return the mask that shows each query only its own row's keys, for the rows that fit into 32 keys."""
    with torch.inference_mode(False):
        queries = torch.arange(KEYS // length * length)[:, None]
        hidden = queries // length != torch.arange(KEYS) // length
        return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
