"""A classifier of averaged word vectors, as an ordinary `transformers` model."""

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from distilkit.hardware.dropout import Dropout
from distilkit.models.word_inputs import both_texts, compared, fill_in


class StaticConfig(PreTrainedConfig):
    """Sizes of a static model.

    Args:
        vocab_size: rows of the embedding table.
        embedding_size: width of a word vector.
        hidden_size: width of the hidden layer before the classifier.
        dropout: on the mean vector and on the hidden layer.
        siamese: encode the two texts of a pair apart, told apart by `token_type_ids`.
        word_dropout: probability with which training leaves a token out of the mean (Iyyer et al. 2015).
    """

    model_type = "static"

    vocab_size: int = 20_000
    embedding_size: int = 96
    hidden_size: int = 256
    dropout: float = 0.1
    siamese: bool = False
    pad_token_id: int = 0
    word_dropout: float = 0.0


class StaticPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = StaticConfig
    config: StaticConfig
    base_model_prefix = "encoder"
    _input_embed_layer = "embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Through transformers' `init`, which leaves weights alone that a checkpoint has filled.
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.1)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, StaticModel):
            init.zeros_(module.scores)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)


class StaticModel(StaticPreTrainedModel):
    """Token ids to the weighted mean of their vectors.

    A token's weight is the softmax of its score over the tokens of its text: a word that says much counts as
    much in a long text as in a short one. Padding has the weight 0, and a text without tokens the mean 0.
    """

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.scores = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = Dropout(config.word_dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **_: object,
    ) -> BaseModelOutput:
        """Mean vectors, float `[N, embedding_size]`, of `input_ids` int64 `[N, L]`."""
        input_ids, attention_mask = fill_in(self.config, input_ids, attention_mask, None)[:2]
        chosen = attention_mask.bool()
        if self.training and self.config.word_dropout:
            random = self.dropout.draw(input_ids.numel(), input_ids.device).view(input_ids.shape)
            chosen = chosen & (random >= self.dropout.dropped - 2**15)
        vectors = self.embeddings(input_ids)
        scores = self.scores[input_ids].masked_fill(~chosen, torch.finfo(self.scores.dtype).min)
        weights = scores.softmax(dim=1) * chosen
        mean = torch.bmm(weights[:, None].to(vectors.dtype), vectors).squeeze(1)
        return BaseModelOutput(last_hidden_state=mean)


class StaticForSequenceClassification(StaticPreTrainedModel):
    """`StaticModel`, a hidden layer with ReLU, and a classifier (Iyyer et al. 2015, with learned weights).

    A siamese one (pairs) averages both texts and classifies `[m1, m2, m1 * m2, |m1 - m2|]`.
    """

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.encoder = StaticModel(config)
        self.dropout = Dropout(config.dropout)
        self.hidden = nn.Linear(config.embedding_size * (4 if config.siamese else 1), config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or ()))
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
        hidden = torch.relu(self.hidden(self.dropout(features)))
        logits = self.classifier(self.dropout(hidden))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register("static", StaticConfig, exist_ok=True)


AutoModel.register(StaticConfig, StaticModel, exist_ok=True)


AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification, exist_ok=True)
