"""The verdict says what the statistics show, in words, and not more."""

import json

import numpy as np
import pytest
from sweep_documents import FAILURE, TEACHER, describe, example, make_runs

from distilkit.reports.sweep_document import SweepDocument, SweepRunEntry
from distilkit.reports.sweep_summary import make_document

LABELS = [0.830, 0.834, 0.828, 0.832, 0.831]


def shift(gain: float, *noise: float) -> list[float]:
    """Scores of a setting whose paired differences to `LABELS` are `gain` and, each, some noise."""
    return [score + gain + extra for score, extra in zip(LABELS, noise, strict=False)]


NOISE = (0.004, -0.005, 0.002, -0.001, 0.0)
OTHER_NOISE = (-0.003, 0.004, 0.001, -0.002, 0.0)


def verdict(*runs: list[SweepRunEntry], **options: object) -> list[str]:
    description = options.pop("description", describe())
    return make_document(description, [run for group in runs for run in group], **options).verdict


def test_a_gain_and_what_cannot_be_told_apart_are_in_one_sentence() -> None:
    sentences = verdict(
        make_runs(shift(0.018, *OTHER_NOISE), alpha=0.0),
        make_runs(shift(0.021, *NOISE), alpha=0.25),
        make_runs(shift(0.019, *OTHER_NOISE), alpha=0.5),
        make_runs(LABELS, alpha=1.0),
        teacher=TEACHER,
    )
    assert sentences == [
        "alpha 0.25 is better than labels alone by 2.1 points (1.7 to 2.5); alphas 0 to 0.5 cannot be told "
        "apart.",
        "Alphas 0 and 0.5 are better than labels alone too.",
        "The teacher, runs/bert, has accuracy 0.9255: better by 7.4 points than alpha 0.25 (0.8520), the "
        "best setting on validation.",
    ]


def test_too_few_seeds_say_how_many_would_tell() -> None:
    sentences = verdict(
        make_runs(shift(0.012, 0.008, -0.008, 0.002), alpha=0.25), make_runs(LABELS[:3], alpha=1.0)
    )
    assert sentences == [
        "No setting is better than labels alone beyond chance: alpha 0.25 comes closest with +1.3 points "
        "(-0.7 to +3.3); 3 seeds cannot tell; 8 would tell 1 point."
    ]


def test_enough_seeds_without_a_difference_say_that_it_is_small() -> None:
    sentences = verdict(make_runs(shift(0.0, *NOISE), alpha=0.25), make_runs(LABELS, alpha=1.0))
    assert sentences == [
        "No setting is better than labels alone beyond chance: alpha 0.25 comes closest with +0.0 points "
        "(-0.4 to +0.4); 5 seeds would tell 1 point, so a difference is probably smaller."
    ]


def test_one_seed_has_no_interval_and_says_so() -> None:
    sentences = verdict(make_runs([0.852], alpha=0.25), make_runs([0.83], alpha=1.0))
    assert sentences == [
        "alpha 0.25 has the best accuracy with a single seed, 0.8520 (+2.2 points against labels alone); one "
        "seed cannot tell this from chance. Add seeds, such as --seed 1..5."
    ]


def test_worse_settings_are_called_worse() -> None:
    sentences = verdict(
        make_runs(shift(-0.03, *NOISE), alpha=0.0),
        make_runs(shift(-0.02, *OTHER_NOISE), alpha=0.25),
        make_runs(LABELS, alpha=1.0),
    )
    assert sentences == [
        "No setting is better than labels alone.",
        "Worse than labels alone: alpha 0 by 3.0 points (2.6 to 3.4) and alpha 0.25 by 2.0 points "
        "(1.7 to 2.3).",
    ]


def test_a_loss_is_better_where_it_is_lower_and_has_no_points() -> None:
    losses = [1 - score for score in LABELS]
    lower = [loss - 0.02 + extra for loss, extra in zip(losses, NOISE, strict=True)]
    sentences = verdict(
        make_runs(lower, alpha=0.25),
        make_runs(losses, alpha=1.0),
        description=describe(metric="loss", higher_is_better=False),
    )
    assert sentences == ["alpha 0.25 is better than labels alone by 0.0200 (0.0158 to 0.0242)."]


def test_students_are_compared_with_the_best() -> None:
    sentences = verdict(
        make_runs(LABELS, student="bilstm", labels_only=False),
        make_runs(shift(0.03, *NOISE), student="tinybert"),
        make_runs(shift(0.031, *OTHER_NOISE), student="minilm"),
        description=describe("student"),
    )
    assert sentences == [
        "student minilm is better than student bilstm by 3.1 points (2.8 to 3.4); students minilm and "
        "tinybert cannot be told apart."
    ]


def test_learning_rates_that_are_alike_cannot_be_told_apart() -> None:
    sentences = verdict(
        make_runs(shift(0.001, *NOISE)[:3], learning_rate=1e-4),
        make_runs(shift(0.0, *OTHER_NOISE)[:3], learning_rate=3e-4),
        make_runs(LABELS[:3], learning_rate=1e-3),
        description=describe("learning_rate"),
    )
    assert sentences == [
        "Learning rates 0.0001 to 0.001 cannot be told apart: 3 seeds cannot tell; 8 would tell 1 point."
    ]


def test_a_single_setting_has_nothing_to_compare() -> None:
    assert verdict(make_runs(LABELS, alpha=0.5)) == [
        "alpha 0.5 has accuracy 0.8310 (0.8282 to 0.8338) over 5 seeds; no other setting ran."
    ]


def test_nothing_finished_is_said() -> None:
    assert verdict(missing=4, failures=[FAILURE]) == [
        "No setting has finished, so there is nothing to compare.",
        "1 cell failed, the first with: RuntimeError: out of memory at step 3",
        "4 cells have not run.",
    ]


def test_steps_seeds_pruned_failed_and_missing_cells_are_said() -> None:
    bad = make_runs([0.5], alpha=0.9)
    sentences = verdict(
        bad,
        make_runs(shift(0.02, *NOISE), alpha=0.25, steps=8_420),
        make_runs(LABELS[:3], alpha=1.0),
        pruned=[bad[0].cell],
        failures=[FAILURE, FAILURE],
        missing=1,
    )
    assert sentences[1:] == [
        "Steps differ: alpha 0.25 trained for 4 times as many as labels alone (8,420 against 2,105), for "
        "instance on transfer text; a part of the difference may come from that.",
        "Settings have 3 to 5 seeds; a difference uses those that both settings have.",
        "1 of 3 settings was ended early and left out of the statistics.",
        "2 cells failed, the first with: RuntimeError: out of memory at step 3",
        "1 cell has not run.",
    ]


def test_a_student_without_labels_only_run_is_not_passed_off_as_a_gain_of_the_teacher() -> None:
    sentences = verdict(
        make_runs(shift(0.02, *NOISE), alpha=0.25, student="tinybert"),
        make_runs(LABELS, alpha=1.0, student="bilstm"),
        description=describe("alpha", "student"),
    )
    assert sentences[-1] == (
        "1 setting has no run on labels alone that is equal in all else: alpha 0.25, student tinybert is "
        "compared with alpha 1, student bilstm, which differs in student too."
    )


def test_settings_without_common_seeds_are_not_compared() -> None:
    sentences = verdict(make_runs({1: 0.85, 2: 0.86}, alpha=0.25), make_runs({3: 0.83, 4: 0.84}, alpha=1.0))
    assert sentences == [
        "No setting shares a seed with labels alone, so nothing can be compared: run the same seeds."
    ]


def test_a_gain_on_these_rows_alone_is_not_called_better() -> None:
    """On 60 rows two systematic answers more are a sure gain over seeds, and nothing on other rows."""
    right = {}
    runs = []
    for alpha, hits in ((0.25, 52), (1.0, 50)):
        for seed in range(1, 6):
            rows = np.arange(60) < hits
            rows[seed] = False
            (run,) = make_runs({seed: float(rows.mean())}, alpha=alpha)
            runs.append(run)
            right[run.cell] = rows
    description = describe().model_copy(update={"rows": 60})
    document = make_document(description, runs, right=right)
    assert document.verdict[0].startswith(
        "alpha 0.25 is better than labels alone by 3.3 points (2.5 to 4.2) on these 60 validation rows, but "
        "other rows could turn it around (+0.0 to "
    )
    difference = document.entry("alpha 0.25").difference
    assert difference and difference.on_these_rows and not difference.different


def test_a_verdict_stays_short_with_many_settings() -> None:
    """A grid of hundreds must not print hundreds of names."""
    runs = [make_runs(shift(-0.03 - i / 1000, *NOISE), alpha=i / 100) for i in range(99)]
    sentences = verdict(*runs, make_runs(LABELS, alpha=1.0))
    assert all(len(sentence) < 1_000 for sentence in sentences) and len(sentences) < 10


# --- the document -----------------------------------------------------------------------------------------


def test_a_document_survives_json() -> None:
    document = example()
    text = json.dumps(document.as_dict(), allow_nan=False)
    assert json.loads(text)["schema"] == "distilkit.sweep/1"
    assert SweepDocument.model_validate_json(text) == document


def test_settings_are_in_the_order_of_their_values() -> None:
    names = [entry.name for entry in example().settings]
    assert names[:3] == [
        "alpha 0, student bilstm",
        "alpha 0, student tiny<bert>",
        "alpha 0.25, student bilstm",
    ]
    assert names[-1] == "alpha 1, student tiny<bert>"


def test_labels_alone_is_a_setting_of_its_own_where_alpha_is_not_swept() -> None:
    """Both have the same student: merged, each seed would count once with and once without teacher."""
    document = make_document(
        describe("student"),
        make_runs(shift(0.02, *NOISE), student="bilstm", labels_only=False)
        + make_runs(LABELS, student="bilstm", labels_only=True),
    )
    assert [entry.name for entry in document.settings] == [
        "student bilstm",
        "student bilstm, labels alone",
    ]
    assert document.verdict[0].startswith("student bilstm is better than labels alone by 2.0 points")


@pytest.mark.parametrize("alpha", [1, 1.0])
def test_numbers_written_as_integers_are_the_same_setting(alpha: float) -> None:
    runs = make_runs({1: 0.8}, alpha=1.0) + make_runs({2: 0.81}, alpha=alpha)
    assert len(make_document(describe(), runs).settings) == 1


def test_students_without_a_common_seed_are_not_compared() -> None:
    sentences = verdict(
        make_runs({1: 0.85, 2: 0.86}, student="a"),
        make_runs({3: 0.83, 4: 0.84}, student="b"),
        description=describe("student"),
    )
    assert sentences == [
        "No setting shares a seed with student a, so nothing can be compared: run the same seeds."
    ]
