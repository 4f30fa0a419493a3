"""`--class-weights`: how much a row of each class counts in the hard loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BAD, GOOD, QUICK, SMALL, Notes, write_jsonl

from distilkit import DistillConfig, TrainConfig, UserError, distill, distill_many
from distilkit.config.fields import make_config
from distilkit.runs.run import Run
from distilkit.workflows.fitting.class_weights import choose_class_weights

NAMES = ("ham", "spam", "odd")
LABELS = np.array([0] * 6 + [1] * 3 + [2] * 1 + [-100] * 5)


def make(*class_weights: str, **options: Any) -> TrainConfig:
    values = {"dataset": "sst2", "output_dir": "run", "class_weights": class_weights}
    return make_config(TrainConfig, values | options)


@pytest.mark.parametrize(
    ("class_weights", "expected"),
    [
        ((), None),
        (("balanced",), (10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1))),
        (("spam=5",), (10 / 22, 50 / 22, 10 / 22)),
        (("spam=5", "odd=0.5"), (10 / 21.5, 50 / 21.5, 5 / 21.5)),
        (("ham=2", "spam=2", "odd=2"), (1, 1, 1)),
    ],
)
def test_the_mean_weight_of_a_labelled_row_is_1(class_weights: tuple[str, ...], expected: Any) -> None:
    """Else alpha would mean another thing with weights than without them."""
    weights = choose_class_weights(make(*class_weights), NAMES, LABELS, notes := Notes())
    if expected is None:
        assert weights is None and notes.notes == []
    else:
        assert weights == pytest.approx(expected)
        assert notes.notes[0].startswith(f"class weights: ham {expected[0]:.3g}, spam {expected[1]:.3g}")


@pytest.mark.parametrize(
    ("class_weights", "message"),
    [
        (("spam",), "--class-weights spam: write balanced, or NAME=WEIGHT"),
        (("spam=0",), "write balanced, or NAME=WEIGHT with a weight above 0, such as spam=5"),
        (("spam=inf",), "write balanced"),
        (("=3",), "write balanced"),
        (("balanced", "spam=3"), "--class-weights balanced: write balanced, or"),
        (("spam=3", "spam=4"), "--class-weights names spam twice"),
    ],
)
def test_what_is_no_weight_is_refused(class_weights: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make(*class_weights)
    assert message in str(caught.value)


def test_a_name_that_is_no_class_and_a_class_without_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"there is no class 'eggs'\. The classes are ham, spam, odd\."):
        choose_class_weights(make("eggs=2"), NAMES, LABELS, Notes())
    with pytest.raises(UserError, match="no training row is labelled odd, so no weight balances it"):
        choose_class_weights(make("balanced"), NAMES, LABELS[:9], Notes())


def test_alpha_0_reads_no_label_to_be_weighed() -> None:
    values = {"dataset": "sst2", "output_dir": "run", "teacher": ("t",), "class_weights": ("balanced",)}
    with pytest.raises(UserError, match="weighs labels, and alpha 0 reads none"):
        make_config(DistillConfig, values | {"alpha": 0})
    assert make_config(DistillConfig, values | {"alpha": 0, "alpha_end": 0.5}).class_weights


def test_weights_change_the_student_and_equal_ones_do_not(tmp_path: Path) -> None:
    """Nine in ten rows are good ones. The formula says what each class counts."""
    lines = [{"text": f"{text} {i}", "label": "good"} for i in range(9) for text in GOOD]
    lines += [{"text": f"{text} x", "label": "bad"} for text in BAD]
    write_jsonl(tmp_path / "data/train.jsonl", lines)
    write_jsonl(tmp_path / "data/validation.jsonl", lines[::2])
    shared = QUICK | SMALL | {"data_dir": tmp_path / "data", "alpha": 1.0, "calibrate": False}

    def train(name: str, *class_weights: str) -> Run:
        options = shared | {"class_weights": class_weights, "output_dir": tmp_path / name}
        return distill(DistillConfig(**options))

    plain, equal, balanced = train("plain"), train("equal", "bad=1", "good=1"), train("balanced", "balanced")
    assert plain.environment["loss"] == "loss = CE(student, labels)"
    assert balanced.environment["loss"] == "loss = CE(student, labels, class weights [5, 0.556])"
    weights = [(run.model_path / "model.safetensors").read_bytes() for run in (plain, equal, balanced)]
    assert weights[0] == weights[1] != weights[2]
    first_losses = [run.history[0]["hard_loss"] for run in (plain, balanced)]
    assert first_losses[0] != first_losses[1]


def test_students_together_learn_with_the_weights_that_each_has_alone(
    teacher_run: Run, sst2_dir: Path, tmp_path: Path
) -> None:
    def configure(name: str, alpha: float) -> DistillConfig:
        options = QUICK | SMALL | {"dataset": "sst2", "data_dir": sst2_dir, "teacher": str(teacher_run.path)}
        options |= {"class_weights": ("negative=3",), "vocabulary": "words"}
        return DistillConfig(**options, alpha=alpha, output_dir=tmp_path / name)

    together = distill_many([configure("a", 0.5), configure("b", 1)])
    alone = distill(configure("c", 0.5))
    files = [(run.model_path / "model.safetensors").read_bytes() for run in (together[0], alone)]
    assert files[0] == files[1]
    assert alone.environment["loss"].startswith("loss = 0.5 * CE(student, labels, class weights [1.5, 0.5])")
