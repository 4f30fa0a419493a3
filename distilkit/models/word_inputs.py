"""What models of word vectors share: masks, texts without tokens, and pairs of texts."""

from typing import Any

import torch
from torch import Tensor


def fill_in(
    config: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Make the mask where there is none, and read texts without tokens, `[N, 0]`, as one of padding.

    A tokenizer gives such ids for an empty text; as a tensor they are not even integers.
    """
    if input_ids.shape[1] == 0:
        input_ids = input_ids.new_full((len(input_ids), 1), config.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        token_type_ids = None if token_type_ids is None else attention_mask
    if attention_mask is None:
        attention_mask = input_ids.ne(config.pad_token_id)
    return input_ids, attention_mask, token_type_ids


def both_texts(input_ids: Tensor, mask: Tensor, token_type_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Ids and mask `[2N, L]` of the first texts, then the second, of `input_ids` and `mask` `[N, L]`."""
    if token_type_ids is None:
        raise ValueError(
            "this model compares two texts: pass token_type_ids, as its tokenizer returns for pairs"
        )
    chosen = torch.cat([token_type_ids.eq(0), token_type_ids.eq(1)])
    return torch.cat([input_ids, input_ids]), chosen & mask.bool().repeat(2, 1)


def compared(first: Tensor, second: Tensor) -> Tensor:
    """Return what a siamese model classifies, `[..., 4 * width]`, of the features of both texts."""
    return torch.cat([first, second, first * second, (first - second).abs()], dim=-1)
