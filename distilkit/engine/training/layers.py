"""Layers of an encoder, seen from inside, and losses that match a student's with its teacher's.

Every loss is a mean over a row's real tokens (or pairs of them) first, and then over rows: neither padding
nor what a row is batched with changes its value.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from distilkit.data.encoding import Encoded, leave_out_full_mask
from distilkit.engine.inference.logits import token_batches
from distilkit.engine.training.layer_losses import LayerLosses, Layers, layer_losses, patient_loss
from distilkit.engine.training.losses import Batch, DistillationLoss, Losses
from distilkit.errors import UserError
from distilkit.hardware.dropout import eval_mode
from distilkit.hardware.kernels import forward_context
from distilkit.hardware.precision import Resolved
from distilkit.models.loading import hushed

MAX_SCORED_TOKENS = 4096  # of a batch that is scored: the output of all its layers is in memory at once


SCORES = "distilkit_scores"  # the attention implementation that returns scores before the softmax


# --- seeing inside -----------------------------------------------------------------------------------------


def run_layers(model: nn.Module, batch: Mapping[str, Tensor], *, scores: bool = True) -> Layers:
    """Run an encoder of transformers on a batch and return what its layers compute.

    The outputs do not change. With `scores`, this call uses another implementation of attention, which needs
    memory for the scores of all layers.

    Raises:
        UserError: when the model has no layers to show, or an attention that cannot be exchanged.
    """
    taken = inspect.signature(model.forward).parameters
    inputs = {
        name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch
    }
    who = type(model).__name__
    if not {"output_hidden_states", "kwargs"} & set(taken) or _has_decoder(model):
        raise UserError(f"a {who} has no layers that can be matched. Use --method logits.")
    with _yielding_scores(model) if scores else nullcontext():
        output: Any = model(
            **leave_out_full_mask(model, {name: values for name, values in inputs.items() if name in taken}),
            output_hidden_states=True,
            output_attentions=scores,
        )
    states = getattr(output, "hidden_states", None)
    attentions = (getattr(output, "attentions", None) or ()) if scores else ()
    layers = getattr(model.config, "num_hidden_layers", 0)
    if not states or len(states) != layers + 1 or (scores and len(attentions) != layers):
        raise UserError(f"a {who} does not show what its layers compute. Use --method logits.")
    return Layers(tuple(states), tuple(attentions), getattr(output, "logits", None))


def _has_decoder(model: Any) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


class Projected(nn.Module):
    """Join a student and the projection of its states to the teacher's width, to train them as one.

    `W_h` of Jiao et al. 2020, equation 8: one matrix without bias for the embeddings and all layers, as their
    `task_distill.py` has one (there with a bias). Equal widths need none. The projection is dropped after
    training.
    """

    def __init__(self, student: nn.Module, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.student = student
        self.projection: nn.Module = nn.Identity()
        if student_width != teacher_width:
            self.projection = nn.Linear(student_width, teacher_width, bias=False)

    def forward(self, batch: Mapping[str, Tensor], *, scores: bool = True) -> Layers:
        """Return the student's layers, with states of the teacher's width."""
        layers = run_layers(self.student, batch, scores=scores)
        return layers._replace(states=tuple(map(self.projection, layers.states)))


@dataclass(frozen=True)
class LayerPair:
    """A teacher and the student whose layers are matched with its, batch by batch.

    The teacher is in eval mode and stays so: it is no part of what is trained.

    Attributes:
        layer_map: per layer of the student, from the first on, the number of the teacher's.
        scores: whether attention scores are matched too.
    """

    teacher: nn.Module
    student: Projected
    layer_map: Sequence[int]
    scores: bool

    def forward(self, student: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Layers, Layers]:
        """Return the layers of the student (`self.student`, as the loop passes it) and the teacher's."""
        with torch.no_grad():
            theirs = run_layers(self.teacher, batch, scores=self.scores)
        return student(batch, scores=self.scores), theirs

    def losses(self, output: tuple[Layers, Layers], batch: Mapping[str, Tensor]) -> LayerLosses:
        """Compute `layer_losses` of what `forward` returned."""
        return layer_losses(*output, batch["attention_mask"], self.layer_map)

    def patient_loss(self, output: tuple[Layers, Layers]) -> Tensor:
        """Compute `patient_loss` of what `forward` returned, over the mapped layers."""
        student, teacher = output
        student_states = student.states[1 : 1 + len(self.layer_map)]
        return patient_loss(student_states, [teacher.states[layer] for layer in self.layer_map])

    @torch.inference_mode()
    def score(self, rows: Encoded, precision: Resolved) -> dict[str, float]:
        """Compute mean losses over rows, the student in eval mode; `layer_loss` is the total."""
        device = next(self.student.parameters()).device
        rows, sums = rows.to(device), torch.zeros(3, device=device)
        with eval_mode(self.student):
            for indices in token_batches(rows.lengths, MAX_SCORED_TOKENS):
                batch = rows.inputs(indices)
                with forward_context(device, precision):
                    output = self.forward(self.student, batch)
                sums += torch.stack(self.losses(output, batch)) * len(indices)
        parts = dict(zip(LayerLosses._fields, (sums / len(rows)).tolist(), strict=True))
        return {"layer_loss": sum(parts.values()), **{f"{name}_loss": part for name, part in parts.items()}}

    @property
    def pairing(self) -> str:
        """Return the student's and the teacher's layers as `1-3, 2-6`."""
        return ", ".join(f"{student}-{teacher}" for student, teacher in enumerate(self.layer_map, start=1))


@dataclass(frozen=True)
class LayerMatchingLoss:
    """Match layers and nothing else: TinyBERT's first stage (Jiao et al. 2020, equations 7 to 9)."""

    pair: LayerPair

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Layers, Layers]:
        """Return the layers of the student and of its teacher."""
        return self.pair.forward(model, batch)

    def __call__(self, output: tuple[Layers, Layers], batch: Batch, progress: float = 0.0) -> Losses:
        """Return the total of `layer_losses`."""
        total = self.pair.losses(output, batch).total
        return Losses(total, None, None, total)

    @property
    def formula(self) -> str:
        """Return the loss, as every run prints and saves it."""
        return (
            f"loss = MSE(embeddings) + sum over layers {self.pair.pairing} of "
            "MSE(states) + MSE(attention scores)"
        )


@dataclass(frozen=True)
class PatientLoss:
    """Add `beta` times the [CLS] loss of mapped layers to a `DistillationLoss`.

    Sun et al. 2019, equation 8.
    """

    pair: LayerPair
    distillation: DistillationLoss
    beta: float

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Layers, Layers]:
        """Return the layers of the student, with its logits, and of its teacher."""
        return self.pair.forward(model, batch)

    def __call__(self, output: tuple[Layers, Layers], batch: Batch, progress: float = 0.0) -> Losses:
        """Return the distillation loss plus `beta * patient_loss`."""
        logits = output[0].logits
        assert logits is not None
        losses, patient = self.distillation(logits.float(), batch, progress), self.pair.patient_loss(output)
        return losses._replace(total=losses.total + self.beta * patient, layers=patient)

    @property
    def formula(self) -> str:
        """Return the loss with its numbers, as every run prints and saves it."""
        matching = f"MSE(normalised [CLS] of layers {self.pair.pairing})"
        return f"{self.distillation.formula} + {self.beta:g} * {matching}"


@contextmanager
def _yielding_scores(model: Any) -> Iterator[None]:
    """Make the model's attention return scores instead of weights."""
    before = getattr(model.config, "_attn_implementation", None)
    with hushed():
        model.set_attn_implementation(SCORES)
    if getattr(model.config, "_attn_implementation", None) != SCORES:
        raise UserError(
            f"the attention of a {type(model).__name__} does not show its scores. "
            "Use --method pkd or --method logits, or a BERT-like model."
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attention_with_scores(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Compute attention as transformers' "eager" one does, but return its scores instead of its weights.

    Args:
        query: `[N, H, L, W]`, as are `key` and `value`.
        attention_mask: float, added to the scores: `[N, 1, L, L]`.

    Returns:
        The output `[N, L, H, W]`, and `query @ key * scaling` `[N, H, L, L]` before the mask.
    """
    if key.shape[1] != query.shape[1]:
        raise UserError(
            f"the attention of a {type(module).__name__} shares {key.shape[1]} key heads between "
            f"{query.shape[1]} query heads, so that heads cannot be compared. Use --method logits."
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scaling
    masked = scores if attention_mask is None else scores + attention_mask
    weights = torch.softmax(masked, dim=-1)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), scores


# The mask is registered too: without one of that name transformers would hand the attention no mask at all.
AttentionInterface.register(SCORES, _attention_with_scores)


AttentionMaskInterface.register(SCORES, eager_mask)
