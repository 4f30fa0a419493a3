"""A classifier of averaged word vectors, as an ordinary `transformers` model."""

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from distilkit.hardware.dropout import Dropout
from distilkit.models.word_models import WordClassifier, WordPreTrainedModel, fill_in


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

    @property
    def text_size(self) -> int:
        """Width of what represents a text."""
        return self.embedding_size

    @property
    def head_size(self) -> int:
        """Width of the hidden layer before the classifier, as a BiLSTM's config calls it."""
        return self.hidden_size


class StaticPreTrainedModel(WordPreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = StaticConfig
    config: StaticConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StaticModel):
            init.zeros_(module.scores)


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


class StaticForSequenceClassification(StaticPreTrainedModel, WordClassifier):
    """`StaticModel`, a hidden layer with ReLU, and a classifier (Iyyer et al. 2015, with learned weights).

    A siamese one (pairs) averages both texts and classifies `[m1, m2, m1 * m2, |m1 - m2|]`.
    """

    encoder: StaticModel
    encoder_class = StaticModel
    drops_features = True


AutoConfig.register("static", StaticConfig, exist_ok=True)


AutoModel.register(StaticConfig, StaticModel, exist_ok=True)


AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification, exist_ok=True)
