"""A temperature is the best one, lies within bounds, and goes into the weights and out again whole."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import family, tiny_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import distilkit.models  # noqa: F401  # the Auto classes learn of the BiLSTM
from distilkit.engine.training.calibration import BOUNDS, divided_logits, fit_temperature
from distilkit.scores.metrics import expected_calibration_error


def honest(rows: int, classes: int, factor: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels drawn from softmax(z), and z times `factor`: the right temperature is `factor`."""
    random = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(rows, classes, generator=random)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=random)[:, 0]
    return logits * factor, labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("factor", [0.1, 1.0, 6.0])
def test_the_temperature_is_what_logits_were_multiplied_with(classes: int, factor: float) -> None:
    logits, labels = honest(20_000, classes, factor)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(factor, rel=0.05)
    if factor != 1:
        scaled = expected_calibration_error(logits / temperature, labels)
        assert scaled < 0.02 < expected_calibration_error(logits, labels)


@given(
    factor=st.floats(0.2, 8), classes=st.integers(2, 6), rows=st.integers(30, 200), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_no_other_temperature_has_a_lower_nll(factor: float, classes: int, rows: int, seed: int) -> None:
    logits, labels = honest(rows, classes, factor, seed)
    best = fit_temperature(logits, labels)

    def nll(temperature: float) -> float:
        return float(cross_entropy(logits.double() / temperature, labels))

    others = [*BOUNDS, 1.0, *((best * 1.05, best / 1.05) if best else ())]
    lowest = min(map(nll, others))
    if best is None:
        assert lowest == min(map(nll, BOUNDS))
    else:
        assert BOUNDS[0] < best < BOUNDS[1] and nll(best) <= lowest + 1e-12


def test_where_the_data_name_no_temperature_there_is_none() -> None:
    """All right, the more sure the better, to infinity; all wrong or all the same, nothing can be said."""
    logits, _ = honest(200, 3, 1.0)
    assert fit_temperature(logits, logits.argmax(dim=1)) is None
    assert fit_temperature(logits, logits.argmin(dim=1)) is None
    assert fit_temperature(torch.zeros(200, 3), logits.argmax(dim=1)) is None
    assert fit_temperature(1e4 * logits, logits.argmax(dim=1)) is None


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        fit_temperature(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))


# --- in the weights ----------------------------------------------------------------------------------------

BATCH = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 5, 2]]), "attention_mask": torch.ones(2, 4).long()}


def answers(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(**BATCH).logits
    return logits


@pytest.mark.parametrize(
    "kind", ["bilstm", "bert", "distilbert", "roberta", "electra", "mpnet", "modernbert"]
)
def test_any_students_logits_are_divided_and_then_as_before_to_the_bit(kind: str) -> None:
    model = family(kind, num_labels=3)
    before = answers(model)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with divided_logits(model, BATCH, 2.7) as divided:
        assert divided and model.training
        torch.testing.assert_close(answers(model), before / 2.7)
        model.train()
    assert model.training, "its dropout goes on"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_goes_wrong_within_leaves_the_model_as_it_was() -> None:
    """Training goes on with the undivided weights."""
    model = tiny_bert()
    before = answers(model)
    with pytest.raises(OSError), divided_logits(model, BATCH, 3.0):
        raise OSError("the disk is full")
    assert torch.equal(answers(model), before)


class Stubborn(nn.Module):
    """Norms its logits: a factor of the last layer changes nothing. Or it has no such layer at all."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(60, 4), nn.Linear(4, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        logits = self.out(self.words(input_ids).mean(dim=1))[:, :3]
        return SimpleNamespace(logits=logits / logits.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("classes", [3, 4])
def test_a_model_that_does_not_divide_is_left_alone(classes: int) -> None:
    model = Stubborn(classes)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with divided_logits(model, BATCH, 2.0) as divided:
        assert not divided
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class WithAnAside(Stubborn):
    """Its last layer to run is not the one that makes the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.spare_core = nn.Linear(4, 7)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        mean = self.words(input_ids).mean(dim=1)
        return SimpleNamespace(logits=self.out(mean), spare_core=self.spare_core(mean))


def test_the_layer_that_makes_the_logits_is_found_by_its_width() -> None:
    with divided_logits(WithAnAside(), BATCH, 2.0) as divided:
        assert divided
