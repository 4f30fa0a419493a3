"""What models of word vectors share: the classifier around an encoder, masks, empty texts, pairs of texts."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from distilkit.hardware.dropout import Dropout


class WordPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of word vectors and linear layers."""

    base_model_prefix = "encoder"
    _input_embed_layer = "embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Through transformers' `init`, which leaves weights alone that a checkpoint has filled.
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.1)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)


class WordClassifier(WordPreTrainedModel):
    """An encoder of texts, a hidden layer with ReLU, and a classifier.

    A siamese one (pairs) encodes both texts of a row alike and classifies what `compared` makes of them.

    Its config says how wide the encoder's features are, `text_size`, and the hidden layer, `head_size`.

    Attributes:
        encoder_class: the encoder, which returns the features of `[N, L]` ids and mask as `[N, text_size]`.
        drops_features: whether dropout applies to the features too, and not to the hidden layer alone.
    """

    encoder_class: ClassVar[type[WordPreTrainedModel]]
    drops_features: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = self.encoder_class(config)
        # A Dropout draws its seed as it is made: made elsewhere, a run would no longer repeat an earlier one.
        if self.drops_features:
            self.dropout = Dropout(config.dropout)
        self.hidden = nn.Linear(config.text_size * (4 if config.siamese else 1), config.head_size)
        if not self.drops_features:
            self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(config.head_size, len(config.id2label or ()))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: object,
    ) -> SequenceClassifierOutput:
        """Logits, float `[N, C]`, of `input_ids` int64 `[N, L]`; the cross-entropy too, given `labels` `[N]`.

        A siamese model needs `token_type_ids`: 0 for the first text, 1 for the second.
        """
        input_ids, attention_mask, token_type_ids = fill_in(
            self.config, input_ids, attention_mask, token_type_ids
        )
        if self.config.siamese:
            input_ids, attention_mask = both_texts(input_ids, attention_mask, token_type_ids)
        features = self.encoder(input_ids, attention_mask).last_hidden_state
        if self.config.siamese:
            features = compared(*features.chunk(2))
        if self.drops_features:
            features = self.dropout(features)
        logits = self.classifier(self.dropout(torch.relu(self.hidden(features))))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


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
