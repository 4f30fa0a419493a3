"""What an encoder computes on its way to the logits, and losses that match a student's to its teacher's.

Every loss is a mean over a row's real tokens (or pairs of them) first, and then over rows: neither padding
nor what a row is batched with changes its value.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from distilkit.data.encoding import Encoded
from distilkit.engine.inference.logits import token_batches
from distilkit.engine.training.losses import Losses
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved, autocast
from distilkit.models.loading import hushed

TOKENS = 4096  # of a batch that is scored: what its layers gave is all in memory at once
SCORES = "distilkit_scores"  # the attention implementation that hands out scores before the softmax


class Layers(NamedTuple):
    """A forward pass of an encoder, seen from inside.

    `states` are the embeddings' output and that of every layer, float `[N, L, W]` each; `scores` those of
    every layer's attention before the softmax and before any mask, float `[N, H, L, L]`, empty where they
    were not asked for. `logits` is `None` where the model has no head.
    """

    states: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    logits: Tensor | None


class LayerLosses(NamedTuple):
    """Scalars: the embeddings' part, and the sums over mapped layers of the other two."""

    embedding: Tensor
    hidden: Tensor
    attention: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, each with weight 1 as in the paper."""
        return self.embedding + self.hidden + self.attention


# --- losses ------------------------------------------------------------------------------------------------


def hidden_loss(student_states: Tensor, teacher_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean squared error of the states of one layer, or of the embeddings' output.

    `MSE(H_student W_h, H_teacher)`, Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language
    Understanding", equations 8 (layers) and 9 (embeddings); `W_h` has been applied already (`Projected`).
    Mean over width, over the real tokens of a row, over rows.

    Args:
        student_states: float `[N, L, W]`.
        teacher_states: float `[N, L, W]`, without gradient.
        attention_mask: `[N, L]`, 1 for real tokens; each row has one at least.
    """
    _check_alike("states", student_states, teacher_states, 3)
    mask = attention_mask.bool()
    if mask.shape != student_states.shape[:2]:
        raise ValueError(f"attention_mask {tuple(mask.shape)} does not fit {tuple(student_states.shape)}")
    squares = (student_states.float() - teacher_states.float()).square().mean(dim=2)
    return (squares.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1)).mean()


def attention_loss(student_scores: Tensor, teacher_scores: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean squared error of one layer's attention scores, before the softmax.

    `1/h * sum over heads of MSE(A_student, A_teacher)`, Jiao et al. 2020, equation 7. Mean over heads, over
    the pairs of a real query and a real key of a row, over rows.

    Args:
        student_scores: float `[N, H, L, L]`.
        teacher_scores: float `[N, H, L, L]`, without gradient; as many heads.
        attention_mask: `[N, L]`, 1 for real tokens; each row has one at least.
    """
    _check_alike("scores", student_scores, teacher_scores, 4)
    mask = attention_mask.bool()
    if mask.shape != student_scores.shape[::2] or mask.shape[1] != student_scores.shape[3]:
        raise ValueError(f"attention_mask {tuple(mask.shape)} does not fit {tuple(student_scores.shape)}")
    squares = (student_scores.float() - teacher_scores.float()).square().mean(dim=1)
    squares = squares.masked_fill(~(mask[:, :, None] & mask[:, None, :]), 0)
    return (squares.sum(dim=(1, 2)) / mask.sum(dim=1).square()).mean()


def patient_loss(student_states: Sequence[Tensor], teacher_states: Sequence[Tensor]) -> Tensor:
    """Mean squared error of the normalised [CLS] states of the mapped layers.

    `mean of (h_student / ||h_student|| - h_teacher / ||h_teacher||)^2`, Sun et al. 2019, "Patient Knowledge
    Distillation for BERT Model Compression", equation 7. Mean over rows, layers **and** width, as in the
    paper's code, whose `beta` of 10 to 1000 is meant for it: a row's squared distance is at most 4, and is
    divided by the width.

    Args:
        student_states: of each mapped layer, float `[N, L, W]`; [CLS] is the first of the L tokens.
        teacher_states: of as many layers, float `[N, L, W]`, without gradient.
    """
    student, teacher = (
        F.normalize(torch.stack([states[:, 0] for states in layers]).float(), dim=-1)
        for layers in (student_states, teacher_states)
    )
    _check_alike("[CLS] states", student, teacher, 3)
    return F.mse_loss(student, teacher)


def layer_losses(
    student: Layers, teacher: Layers, attention_mask: Tensor, layer_map: Sequence[int]
) -> LayerLosses:
    """The losses of TinyBERT's first stage: embeddings, and every student layer with its teacher's.

    Args:
        student: with states of the teacher's width.
        attention_mask: `[N, L]`, 1 for real tokens.
        layer_map: per layer of the student the number, from 1, of the teacher's.
    """
    hidden = [
        hidden_loss(student.states[own], teacher.states[theirs], attention_mask)
        for own, theirs in enumerate(layer_map, start=1)
    ]
    attention = [
        attention_loss(scores, teacher.scores[theirs - 1], attention_mask)
        for scores, theirs in zip(student.scores, layer_map, strict=True)
    ]
    return LayerLosses(
        embedding=hidden_loss(student.states[0], teacher.states[0], attention_mask),
        hidden=torch.stack(hidden).sum(),
        attention=torch.stack(attention).sum(),
    )


def _check_alike(what: str, student: Tensor, teacher: Tensor, dimensions: int) -> None:
    if student.ndim != dimensions or student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} differ in "
            "shape; broadcasting them would hide a mistake"
        )


# --- which layer is matched with which ---------------------------------------------------------------------


def layer_map(teacher_layers: int, student_layers: int, picked: Sequence[int] | None = None) -> list[int]:
    """Per layer of the student the number, from 1, of the teacher's layer that it is matched with.

    Evenly spaced, the last with the last: 4 of 12 gives 3, 6, 9, 12 (Jiao et al. 2020, `g(m) = 3m`). Where
    the numbers do not divide, `m * teacher_layers / student_layers` is rounded.

    A student that was made of the teacher's layers has their attention heads, which have nothing to do with
    those of other layers. So each of its layers is matched with the one that it was made of, except the last,
    which is matched with the last: what the head reads has to come out of it.

    Args:
        picked: the teacher's layers, from 0, that the student's were copied from.

    Raises:
        UserError: when the student has more layers than the teacher.
    """
    if student_layers > teacher_layers:
        raise UserError(
            f"the student has {student_layers} layers, its teacher only {teacher_layers}, so they cannot be "
            "matched. Use --layers or another --student, or --method logits."
        )
    if picked is not None:
        return [layer + 1 for layer in picked[:-1]] + [teacher_layers]
    return [round(layer * teacher_layers / student_layers) for layer in range(1, student_layers + 1)]


# --- seeing inside -----------------------------------------------------------------------------------------


def run_layers(model: nn.Module, batch: Mapping[str, Tensor], *, scores: bool = True) -> Layers:
    """Run an encoder of transformers on what it takes of a batch, and keep what its layers gave.

    Outputs are those of its own attention. With `scores`, another implementation of it is in place for the
    time of this call, which needs memory for the scores of all layers.

    Raises:
        UserError: when the model has no layers to show, or an attention that cannot be exchanged.
    """
    taken = inspect.signature(model.forward).parameters
    inputs = {
        name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch
    }
    who = type(model).__name__
    if not {"output_hidden_states", "kwargs"} & set(taken):
        raise UserError(f"a {who} has no layers that can be matched. Use --method logits.")
    with _yielding_scores(model) if scores else nullcontext():
        output: Any = model(
            **{name: values for name, values in inputs.items() if name in taken},
            output_hidden_states=True,
            output_attentions=scores,
        )
    states, attentions = output.hidden_states, output.attentions if scores else ()
    layers = getattr(model.config, "num_hidden_layers", 0)
    if not states or len(states) != layers + 1 or (scores and len(attentions or ()) != layers):
        raise UserError(f"a {who} does not show what its layers compute. Use --method logits.")
    return Layers(tuple(states), tuple(attentions), getattr(output, "logits", None))


class Projected(nn.Module):
    """A student and the projection of its states to the teacher's width, to be trained as one.

    `W_h` of Jiao et al. 2020, equation 8: one matrix without bias for the embeddings and all layers, as their
    `task_distill.py` has one (there with a bias). Nothing where the widths are equal. The student is kept
    and the projection thrown away.
    """

    def __init__(self, student: nn.Module, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.student = student
        self.projection: nn.Module = nn.Identity()
        if student_width != teacher_width:
            self.projection = nn.Linear(student_width, teacher_width, bias=False)

    def forward(self, batch: Mapping[str, Tensor], *, scores: bool = True) -> Layers:
        """The student's layers, with states of the teacher's width."""
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
        """The layers of the student (`self.student`, as the loop hands it back), and the teacher's."""
        with torch.no_grad():
            theirs = run_layers(self.teacher, batch, scores=self.scores)
        return student(batch, scores=self.scores), theirs

    def losses(self, seen: tuple[Layers, Layers], batch: Mapping[str, Tensor]) -> LayerLosses:
        """`layer_losses` of what `forward` saw."""
        return layer_losses(*seen, batch["attention_mask"], self.layer_map)

    def loss(self, seen: tuple[Layers, Layers], batch: Mapping[str, Tensor]) -> Losses:
        """Their total alone, as the loop wants it."""
        total = self.losses(seen, batch).total
        return Losses(total, None, None, total)

    def patient_loss(self, seen: tuple[Layers, Layers]) -> Tensor:
        """`patient_loss` of what `forward` saw, over the layers of the map."""
        student, teacher = seen
        own = student.states[1 : 1 + len(self.layer_map)]
        return patient_loss(own, [teacher.states[theirs] for theirs in self.layer_map])

    @torch.inference_mode()
    def score(self, rows: Encoded, precision: Resolved) -> dict[str, float]:
        """Mean losses over rows, the student in eval mode; `layer_loss` is the total."""
        device = next(self.student.parameters()).device
        rows, training = rows.to(device), self.student.training
        sums = torch.zeros(3, device=device)
        self.student.eval()
        for indices in token_batches(rows.lengths, TOKENS):
            batch = rows.inputs(indices)
            with autocast(device, precision):
                seen = self.forward(self.student, batch)
            sums += torch.stack(self.losses(seen, batch)) * len(indices)
        self.student.train(training)
        parts = dict(zip(LayerLosses._fields, (sums / len(rows)).tolist(), strict=True))
        return {"layer_loss": sum(parts.values()), **{f"{name}_loss": part for name, part in parts.items()}}


@contextmanager
def _yielding_scores(model: Any) -> Iterator[None]:
    """Within it the model's attention answers with scores in the place of weights."""
    before = getattr(model.config, "_attn_implementation", None)
    with hushed():
        model.set_attn_implementation(SCORES)
    if model.config._attn_implementation != SCORES:
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
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as transformers' "eager" one, which answers with its scores in the place of its weights.

    Args:
        query: `[N, H, L, W]`, as are `key` and `value`.
        attention_mask: float, added to the scores: `[N, 1, L, L]`.

    Returns:
        The output `[N, L, H, W]`, and `query @ key * scaling` `[N, H, L, L]` before the mask.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scaling
    masked = scores if attention_mask is None else scores + attention_mask
    weights = torch.softmax(masked, dim=-1)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), scores


# The mask is registered too: without one of that name transformers would hand the attention no mask at all.
AttentionInterface.register(SCORES, _attention_with_scores)
AttentionMaskInterface.register(SCORES, eager_mask)
