"""The cells of a sweep: each combination once, with the labels-only student beside it."""

from itertools import pairwise
from typing import Any

import pytest

from distilkit.config import SweepConfig, resolve
from distilkit.config.sweeping import DEFAULT_ALPHAS
from distilkit.errors import UserError
from distilkit.workflows.sweeping.cells import Cell, make_cells


def cells(**options: Any) -> list[Cell]:
    return make_cells(SweepConfig(**{"dataset": "sst2", "teacher": "t", "output_dir": "s"} | options))


def names(**options: Any) -> list[str]:
    return sorted(cell.name for cell in cells(**options))


def test_a_grid_has_every_combination_and_labels_only() -> None:
    made = cells(alpha="0,0.5", learning_rate="1e-3,2e-3", seed="1..2")
    assert len(made) == len({cell.id for cell in made}) == 3 * 2 * 2, "alpha 1 for each rate and seed too"
    assert {cell.values["alpha"] for cell in made} == {0.0, 0.5, 1.0}
    assert "alpha-0.5-learning_rate-0.002-seed-1" in {cell.name for cell in made}
    assert {cell.config.seed for cell in made} == {1, 2}


def test_without_values_alpha_is_swept_over_three_seeds() -> None:
    assert len(cells()) == len(DEFAULT_ALPHAS) * 3
    assert names(alpha=0.5, seed=1) == ["alpha-0.5-seed-1", "alpha-1-seed-1"]
    assert names(teacher=(), seed=1) == ["seed-1"], "without a teacher there are labels alone"


def test_a_teacher_that_is_a_file_is_swept_as_a_model_is() -> None:
    made = cells(teacher=(), teacher_file="a.csv", missing="skip")
    assert len(made) == len(DEFAULT_ALPHAS) * 3
    assert {cell.config.missing for cell in made} == {"skip"}


def test_labels_only_is_trained_once_whatever_the_teacher_is_used_for() -> None:
    """Temperatures mean nothing to it: it would be trained once for each, and weigh as if it were several."""
    grid = [{"soft_loss": ["mse"]}, {"soft_loss": ["kl"], "temperature": [1, 2, 4]}]
    made = cells(grid=grid, seed=1)
    assert len(made) == 5
    (labels_only,) = [cell for cell in made if cell.values["alpha"] == 1]
    assert labels_only.values == {"alpha": 1.0, "seed": 1, "soft_loss": None, "temperature": None}
    with_text = cells(alpha=0, transfer="more.txt", seed=1)
    assert [cell.config.transfer for cell in with_text if cell.values["alpha"] == 1] == [()]


def test_students_of_one_shape_stand_side_by_side() -> None:
    """A worker takes neighbours in the queue together, which share data and teacher logits."""
    made = cells(student="bilstm,tinybert", alpha="0,0.5", seed="1..3")
    shapes = [cell.shape for cell in made]
    assert len(set(shapes)) == 2
    assert sum(a != b for a, b in pairwise(shapes)) == 1


def test_an_id_is_what_is_trained_and_not_how_it_was_written() -> None:
    """Another spelling of a value, its default, or another folder would train everything a second time."""
    plain = {cell.id for cell in cells(alpha="0,1", seed=1)}
    assert {cell.id for cell in cells(alpha=[0.0, 1.0], seed="1", output_dir="elsewhere")} == plain
    epochs = resolve(cells(seed=1)[0].config).epochs
    assert {cell.id for cell in cells(alpha="0,1", seed=1, epochs=epochs)} == plain
    assert {cell.id for cell in cells(alpha="0,1", seed=1, epochs=epochs + 1)}.isdisjoint(plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_loss": "mse,kl", "temperature": 2}, "--temperature 2 is for --soft-loss kl"),
        (
            {"hidden_size": "8,x"},
            "cell hidden_size x, seed 1: --hidden-size 'x': input should be a valid integer",
        ),
        ({"alpha": "0..2:0.5"}, "--alpha '1.5': input should be less than or equal to 1"),
        ({"alpha": "0..1:0.001", "seed": "1..10"}, "that is 10,010 cells, and a sweep has 10,000 at most"),
        ({"teacher": (), "alpha": 0.5}, "alpha 0.5 needs a teacher"),
    ],
)
def test_a_combination_that_is_no_distillation_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        cells(**options)
    assert message in str(error.value)


def test_a_long_name_is_cut_and_still_tells_cells_apart() -> None:
    many = {name: [0.1, 0.2] for name in ("dropout", "word_dropout", "weight_decay", "warmup_ratio")}
    made = cells(grid=many, learning_rate=[1e-3, 2e-3], max_grad_norm=[1, 2], batch_size=[8, 16], seed=1)
    assert len({cell.name for cell in made}) == len(made) == 2**7 * 2
    assert max(len(cell.name) for cell in made) < 120
