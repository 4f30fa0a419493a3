"""Several BiLSTMs of one shape as one: a GPU trains K of them in little more time than one of them.

A small student leaves a GPU idle: a step is a hundred small kernels, each over before the next has been
sent. With the students' parameters stacked, each kernel does the work of all.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from distilkit.hardware.dropout import Dropout, drop, leave_out
from distilkit.models.bilstm import BiLSTMForSequenceClassification, compact
from distilkit.models.word_models import both_texts, compared

Batch = dict[str, Tensor]
TABLE = "encoder.embeddings.weight"


class BiLSTMStack:
    """K BiLSTMs in training, which share nothing but the kernels that compute them.

    The LSTM is written out (Hochreiter and Schmidhuber 1997, with torch's order of gates), because cuDNN's
    takes one set of weights. Every student draws its own dropout, as it would alone.

    Attributes:
        students: the models; their parameters are up to date after `hand_back`.
        weights: by the name that a student knows it by, all students' values of a parameter, `[K, ...]`.

    Args:
        students: models with equal configs, on one device.
    """

    def __init__(self, students: Sequence[BiLSTMForSequenceClassification]) -> None:
        self.students = list(students)
        self.config = self.students[0].config
        self.weights: dict[str, Tensor] = stack_module_state(self.students)[0]
        first = torch.arange(len(self.students)) * self.config.vocab_size
        self.weights[TABLE].register_hook(self._without_padding)
        self._first_row = first.to(self.students[0].device)[:, None, None]

    @torch.no_grad()
    def hand_back(self, indices: Sequence[int]) -> None:
        """Copy their weights to these students."""
        for name, values in self.weights.items():
            for i in indices:
                self.students[i].get_parameter(name).copy_(values[i])

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """Logits in training, float `[K, N, C]`.

        Args:
            batches: what each student reads, all of N rows. Students that read the same should be given the
                same dict: it is prepared once.
        """
        ids, lengths, widths = self._rows(batches)
        device, longest = ids.device, ids.shape[1]
        end = (lengths - 1).clamp(min=0)[:, None, :, None]
        position = torch.arange(longest, device=device)[:, None, None]
        mirror = (end - position).clamp(min=0)  # as in BiLSTMModel: token i <-> token (length - 1 - i)
        beyond = position > end

        table = self.weights[TABLE].flatten(0, 1)
        states = nn.functional.embedding(ids + self._first_row, table)
        dropouts = [student.encoder.dropout for student in self.students]
        if self.config.word_dropout:
            random = _draw_each(dropouts, states[..., :1], widths).squeeze(-1)
            states = leave_out(states, self.config.word_dropout, random)
        states = _drop_each(dropouts, states, widths)
        ahead, back = self._read(0, states, mirror).chunk(2)
        for layer in range(1, self.config.num_layers):
            states = torch.cat([ahead, _at(mirror, back)], dim=-1)
            ahead, back = self._read(layer, _drop_each(dropouts, states, widths), mirror).chunk(2)

        features = torch.cat([self._pooled(way, end, beyond) for way in (ahead, back)], dim=-1)
        if self.config.siamese:
            features = compared(*features.chunk(2, dim=1))
        hidden = self._linear("hidden", features).relu()
        tops = [student.dropout for student in self.students]
        hidden = _drop_each(tops, hidden[:, None], [1] * len(tops)).squeeze(1)
        return self._linear("classifier", hidden)

    def _without_padding(self, gradient: Tensor) -> Tensor:
        """Zero the gradient of the padding row, as an embedding does for it."""
        gradient[:, self.config.pad_token_id] = 0
        return gradient

    def _rows(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor, list[int]]:
        """Ids int64 `[K, longest, N]`, their lengths `[K, N]`, and how wide each student's are alone."""
        prepared: dict[int, tuple[Tensor, Tensor]] = {}
        for batch in batches:
            if id(batch) not in prepared:
                ids, mask = batch["input_ids"], batch["attention_mask"]
                if self.config.siamese:
                    ids, mask = both_texts(ids, mask, batch.get("token_type_ids"))
                prepared[id(batch)] = compact(ids, mask.bool())
        longest = max(ids.shape[1] for ids, _ in prepared.values())
        widened = {
            key: (nn.functional.pad(ids, (0, longest - ids.shape[1])), lengths)
            for key, (ids, lengths) in prepared.items()
        }
        chosen = [widened[id(batch)] for batch in batches]
        widths = [prepared[id(batch)][0].shape[1] for batch in batches]
        ids = torch.stack([ids.T for ids, _ in chosen])
        return ids, torch.stack([lengths for _, lengths in chosen]), widths

    def _read(self, layer: int, states: Tensor, mirror: Tensor) -> Tensor:
        """All states of a layer, `[2K, L, N, hidden]`, of `[K, L, N, width]`; backwards ones mirrored."""
        both = torch.cat([states, _at(mirror, states)])
        _, longest, rows, width = both.shape
        inward = self._lstm(layer, "weight_ih_l0").transpose(1, 2)
        bias = self._lstm(layer, "bias_ih_l0", "bias_hh_l0")
        gates = torch.baddbmm(bias[:, None], both.reshape(len(both), longest * rows, width), inward)
        recurrent = self._lstm(layer, "weight_hh_l0").transpose(1, 2)
        if torch.is_autocast_enabled(states.device.type):  # which would cast it anew for every token
            recurrent = recurrent.to(torch.get_autocast_dtype(states.device.type))
        hidden = cell = both.new_zeros(len(both), rows, self.config.hidden_size, dtype=torch.float32)
        outputs = []
        for inputs in gates.view(len(both), longest, rows, -1).unbind(1):
            let, forget, new, out = torch.baddbmm(inputs, hidden, recurrent).chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + let.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)

    def _pooled(self, states: Tensor, end: Tensor, beyond: Tensor) -> Tensor:
        """Return what a direction of BiLSTMModel pools, `[K, N, width]`, of `states` `[K, L, N, hidden]`."""
        parts = []
        if self.config.pooling != "max":
            parts.append(_at(end, states).squeeze(1))
        if self.config.pooling != "last":
            parts.append(states.masked_fill(beyond, float("-inf")).amax(dim=1))
        return torch.cat(parts, dim=-1)

    def _lstm(self, layer: int, *names: str) -> Tensor:
        """Return a parameter of the forward LSTMs, then of the backward ones: `[2K, ...]`.

        Of two names the sum, added before they are joined: of two joined tensors that are added, autograd
        would hand both parts of one gradient in the same memory, and change it twice in place.
        """
        ways = [
            reduce(torch.add, [self.weights[f"encoder.{way}.{layer}.{name}"] for name in names])
            for way in ("forwards", "backwards")
        ]
        return torch.cat(ways)

    def _linear(self, name: str, values: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return torch.baddbmm(bias[:, None], values, weight.transpose(1, 2))


def _at(positions: Tensor, states: Tensor) -> Tensor:
    """Return the states at these positions of dimension 1; positions of K students serve 2K LSTMs too."""
    positions = positions.repeat(len(states) // len(positions), 1, 1, 1)
    return states.gather(1, positions.expand(-1, -1, -1, states.shape[3]))


def _drop_each(dropouts: Sequence[Dropout], states: Tensor, widths: Sequence[int]) -> Tensor:
    """Each student's dropout on its `states[k]`, `[L, N, width]`."""
    if not dropouts[0].dropped:
        return states
    return drop(states, dropouts[0].dropped, _draw_each(dropouts, states, widths))


def _draw_each(dropouts: Sequence[Dropout], states: Tensor, widths: Sequence[int]) -> Tensor:
    """Each student's random numbers for its `states[k]`, `[L, N, width]`.

    Alone a student sees `[N, widths[k], width]`, and draws its numbers in that order.
    """
    _, longest, rows, width = states.shape
    random = torch.zeros(len(states), rows, longest, width, dtype=torch.int16, device=states.device)
    for student_random, dropout, length in zip(random, dropouts, widths, strict=True):
        student_random[:, :length] = dropout.draw(rows * length * width, states.device).view(
            rows, length, width
        )
    return random.transpose(1, 2)
