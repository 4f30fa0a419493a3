"""A bidirectional LSTM classifier after Tang et al. 2019, as an ordinary `transformers` model."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from distilkit.config import Pooling
from distilkit.data.encoding import is_full_mask
from distilkit.hardware.dropout import Dropout, leave_out
from distilkit.hardware.threads import make_spare_core
from distilkit.models.word_models import WordClassifier, WordPreTrainedModel, fill_in


class BiLSTMConfig(PreTrainedConfig):
    """Sizes of a BiLSTM; defaults are those of Tang et al. for single sentences.

    Args:
        vocab_size: rows of the embedding table.
        embedding_size: width of a word vector.
        hidden_size: width of the LSTM, per direction.
        num_layers: LSTM layers.
        head_size: width of the hidden layer before the classifier.
        dropout: on word vectors, between LSTM layers and on the hidden layer.
        siamese: encode the two texts of a pair apart, told apart by `token_type_ids`.
        pooling: what represents a text, of either direction: `last` its final state, `max` the maximum of
            its states over the tokens (Conneau et al. 2017, section 3.2.2), `both` one beside the other.
        word_dropout: probability with which, in training, a token's vector is zero as a whole (after Iyyer et
            al. 2015, who leave the token out). What is kept is not scaled: an LSTM sums nothing over tokens.
    """

    model_type = "bilstm"
    attribute_map = {"num_hidden_layers": "num_layers"}  # noqa: RUF012  # the base class's own way

    vocab_size: int = 20_000
    embedding_size: int = 300
    hidden_size: int = 150
    num_layers: int = 1
    head_size: int = 200
    dropout: float = 0.1
    siamese: bool = False
    pad_token_id: int = 0
    pooling: Pooling = "last"
    word_dropout: float = 0.0

    @property
    def text_size(self) -> int:
        """Width of what represents a text."""
        return 2 * self.hidden_size * (2 if self.pooling == "both" else 1)


class BiLSTMPreTrainedModel(WordPreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = BiLSTMConfig
    config: BiLSTMConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if "weight_hh" in name:
                    for gate in parameter.chunk(4):
                        init.orthogonal_(gate)
                elif "weight_ih" in name:
                    init.xavier_uniform_(parameter)
                else:
                    init.zeros_(parameter)


Turn = Callable[[Tensor], Tensor]


Read = Callable[..., Tensor]


class _BothDirections(torch.autograd.Function):
    """`read` for two LSTMs, forward and backward, on a CPU core each: the same numbers in less time.

    Autograd walks back through a graph in one thread, so either LSTM has a small graph of its own.
    """

    @staticmethod
    def forward(ctx: Any, reads: tuple[Read, Read], states: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        half = len(weights) // 2
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        backward_run = make_spare_core().submit(
            _BothDirections.run, reads[1], (states, *weights[half:]), dtype
        )
        ctx.runs = _BothDirections.run(reads[0], (states, *weights[:half]), dtype), backward_run.result()
        return tuple(output.detach() for _, output in ctx.runs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (first_run, second_run), ctx.runs = ctx.runs, None
        second_result = make_spare_core().submit(_BothDirections.run_back, second_run, gradients[1])
        states, *weights = _BothDirections.run_back(first_run, gradients[0])
        second_states, *second_weights = second_result.result()
        both = None if states is None or second_states is None else states + second_states
        return (None, both, *weights, *second_weights)

    @staticmethod
    def run(read: Read, inputs: Sequence[Tensor], dtype: torch.dtype | None) -> tuple[list[Tensor], Tensor]:
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs]
        with torch.enable_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
            return leaves, read(*leaves)

    @staticmethod
    def run_back(run: tuple[list[Tensor], Tensor], gradient: Tensor) -> list[Tensor | None]:
        leaves, output = run
        trained = [leaf for leaf in leaves if leaf.requires_grad]
        leaf_gradients = iter(torch.autograd.grad(output, trained, gradient))
        return [next(leaf_gradients) if leaf.requires_grad else None for leaf in leaves]


def _read(turn: Turn, pick: Turn, states: Tensor, *weights: Tensor) -> Tensor:
    """One direction of one layer: `pick` of what an LSTM makes of `states` `[N, L, width]` in `turn`."""
    on_cuda = states.device.type == "cuda"
    # There autocast would run an LSTM in fp16, whatever its format, and without a loss scale.
    with torch.autocast("cuda", enabled=False) if on_cuda else nullcontext():
        inputs = turn(states).to(weights[0].dtype) if on_cuda else turn(states)
        zero = inputs.new_zeros(1, len(inputs), weights[1].shape[1])
        # cuDNN keeps what a backward pass reads wherever it is told to train.
        trains = torch.is_grad_enabled() or not on_cuda
        # As nn.LSTM calls it, but with weights that may be leaves of another graph.
        output, _, _ = torch.lstm(inputs, (zero, zero), weights, True, 1, 0.0, trains, False, True)
    return pick(output)


class BiLSTMModel(BiLSTMPreTrainedModel):
    """Word vectors and LSTM: token ids to the pooled states of both directions.

    Each direction is an LSTM of its own that reads the tokens from its end, so padding comes after the last
    token in both and can reach no state that is used: logits depend neither on padding nor on batch mates,
    and nothing needs to be packed (packed sequences keep the CPU from its bf16 kernels). A text without
    tokens is read as one of padding.

    With `uses_spare_core`, training on a CPU computes the two directions on a core each.
    """

    uses_spare_core = False

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.dropout = Dropout(config.dropout)
        widths = [config.embedding_size] + [2 * config.hidden_size] * (config.num_layers - 1)
        self.forwards = nn.ModuleList(
            nn.LSTM(width, config.hidden_size, batch_first=True) for width in widths
        )
        self.backwards = nn.ModuleList(
            nn.LSTM(width, config.hidden_size, batch_first=True) for width in widths
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **_: object,
    ) -> BaseModelOutput:
        """Pooled states, float `[N, text_size]`, of `input_ids` int64 `[N, L]`."""
        input_ids, attention_mask = fill_in(self.config, input_ids, attention_mask, None)[:2]
        if _is_full(attention_mask):  # rows of one length, of which nothing has to be picked out
            turn, last, largest = _flip, _last, _largest
        else:
            input_ids, lengths = compact(input_ids, attention_mask.bool())
            end = (lengths - 1).clamp(min=0)[:, None, None]
            position = torch.arange(input_ids.shape[1], device=input_ids.device)[:, None]
            mirror = (end - position).clamp(min=0)  # token i <-> token (length - 1 - i)
            turn, last = partial(_gather, mirror), partial(_gather_last, end)
            largest = partial(_largest_until, position > end)
        pools: dict[str, Turn] = {"last": last, "max": largest, "both": partial(_concat_pools, last, largest)}
        pool = pools[self.config.pooling]
        states = self.embeddings(input_ids)
        if self.training and self.config.word_dropout:
            random = self.dropout.draw(input_ids.numel(), input_ids.device).view(input_ids.shape)
            states = leave_out(states, self.config.word_dropout, random)
        states = self.dropout(states)
        for layer, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            final = layer + 1 == self.config.num_layers
            if layer:
                states = self.dropout(states)
            reads = (
                partial(_read, _as_it_is, pool if final else _as_it_is),
                partial(_read, turn, pool if final else turn),
            )
            states = torch.cat(self._both(reads, states, ahead, back), dim=-1)
        return BaseModelOutput(last_hidden_state=states)

    def _both(
        self, reads: tuple[Read, Read], states: Tensor, ahead: nn.Module, back: nn.Module
    ) -> tuple[Tensor, Tensor]:
        weights = (*ahead.parameters(), *back.parameters())
        if self.uses_spare_core and torch.is_grad_enabled() and states.device.type == "cpu":
            apply: Any = _BothDirections.apply
            both: tuple[Tensor, Tensor] = apply(reads, states, *weights)
            return both
        half = len(weights) // 2
        return reads[0](states, *weights[:half]), reads[1](states, *weights[half:])


def _as_it_is(states: Tensor) -> Tensor:
    return states


def _flip(states: Tensor) -> Tensor:
    return states.flip(1)


def _last(states: Tensor) -> Tensor:
    return states[:, -1]


def _gather(positions: Tensor, states: Tensor) -> Tensor:
    return states.gather(1, positions.expand(-1, -1, states.shape[2]))


def _gather_last(end: Tensor, states: Tensor) -> Tensor:
    return _gather(end, states).squeeze(1)


def _largest(states: Tensor) -> Tensor:
    return states.amax(dim=1)


def _largest_until(beyond: Tensor, states: Tensor) -> Tensor:
    return states.masked_fill(beyond, float("-inf")).amax(dim=1)


def _concat_pools(first: Turn, second: Turn, states: Tensor) -> Tensor:
    return torch.cat([first(states), second(states)], dim=-1)


class BiLSTMForSequenceClassification(BiLSTMPreTrainedModel, WordClassifier):
    """`BiLSTMModel`, a hidden layer with ReLU, and a classifier.

    A siamese one (pairs) reads both texts with the same LSTM and classifies `[h1, h2, h1 * h2, |h1 - h2|]`
    (Tang et al. 2019, section 3.1).
    """

    encoder: BiLSTMModel
    encoder_class = BiLSTMModel


def _is_full(mask: Tensor) -> bool:
    """Return whether there is no padding, as far as that is known without waiting for a GPU."""
    if mask.device.type == "cpu":
        return mask.shape[1] > 0 and bool(mask.all())
    return is_full_mask(mask)


def compact(input_ids: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Move the chosen tokens of each row to its start, and count them; on a CPU, cut to the longest row.

    Args:
        input_ids: int64 `[N, L]`.
        chosen: bool `[N, L]`.

    Returns:
        int64 `[N, longest]` (on a GPU `[N, L]`), where what lies beyond a row's number is arbitrary, and
        int64 `[N]`.
    """
    lengths = chosen.sum(dim=1)
    order = chosen.logical_not().byte().argsort(dim=1, stable=True)
    # Asking a GPU for the longest row would make every step wait for it.
    longest = max(1, int(lengths.max())) if lengths.device.type == "cpu" else input_ids.shape[1]
    return input_ids.gather(1, order)[:, :longest], lengths


AutoConfig.register("bilstm", BiLSTMConfig, exist_ok=True)


AutoModel.register(BiLSTMConfig, BiLSTMModel, exist_ok=True)


AutoModelForSequenceClassification.register(BiLSTMConfig, BiLSTMForSequenceClassification, exist_ok=True)
