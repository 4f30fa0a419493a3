"""The threshold of a fallback keeps its promise in services whose whole traffic is known."""

import numpy as np
import pytest
from scipy import stats

from distilkit.scores.fallback import (
    bound_agreement,
    choose_threshold,
    count_allowed,
    count_rows_needed,
    trace_fallback,
)

SERVICES = 400


class Service:
    """All traffic of a student and its teacher: how sure the student is, how often it differs then."""

    def __init__(self, generator: np.random.Generator, texts: int = 2000) -> None:
        self.generator = generator
        sureness, skill = generator.uniform(0.3, 6), generator.uniform(0.3, 3)
        self.probabilities = 0.5 + 0.5 * generator.beta(sureness, 1, texts)
        if generator.random() < 0.3:  # as of a model in few bits: many rows are equally sure
            self.probabilities = self.probabilities.round(2)
        self.differs = np.clip((1 - self.probabilities) * skill, 0, 1)

    def sample(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.generator.integers(len(self.probabilities), size=rows)
        return self.probabilities[chosen], self.generator.random(rows) >= self.differs[chosen]

    def agreement(self, threshold: float) -> float:
        return 1 - float((self.differs * (self.probabilities >= threshold)).mean())


def test_the_bound_holds_in_95_of_100_services() -> None:
    """One that ignored that the threshold was chosen on the same rows would fail far more often."""
    generator = np.random.default_rng(1)
    holds = naive_holds = 0
    for _ in range(SERVICES):
        service = Service(generator)
        target, rows = generator.choice([0.9, 0.95, 0.98]), int(generator.integers(200, 2000))
        probabilities, same = service.sample(rows)
        choice = choose_threshold(probabilities, same, target)
        assert choice and choice.agreement_bound >= target
        holds += service.agreement(choice.threshold) >= choice.agreement_bound
        differing = np.append(np.sort(probabilities[~same])[::-1], [0.0] * rows)
        naive = np.nextafter(differing[int((1 - target) * rows)], 2)  # enough agree in the sample
        naive_holds += service.agreement(naive) >= target
    # Exactly 95 % where services are as bad as can be: three standard deviations below that would be a fault.
    assert holds / SERVICES >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / SERVICES)
    assert naive_holds / SERVICES < 0.8, "the services would not tell a right method from a wrong one"


def test_no_service_is_asked_more_often_than_need_be() -> None:
    """A threshold that is far too high keeps any promise: a step lower, one row more differs than may."""
    service = Service(np.random.default_rng(4))
    probabilities, same = service.sample(1000)
    choice = choose_threshold(probabilities, same, 0.95)
    allowed = count_allowed(1000, 0.95)
    assert choice and allowed
    assert (~same & (probabilities >= choice.threshold)).sum() == allowed
    assert (~same & (probabilities >= choice.threshold - 2e-6)).sum() == allowed + 1
    assert 0.2 < choice.coverage < 1
    assert choice.agreement == 1 - allowed / 1000 and choice.rows == 1000


def test_a_student_that_never_differs_answers_everything() -> None:
    choice = choose_threshold(np.full(200, 0.6), np.ones(200, bool), 0.98)
    assert choice and (choice.threshold, choice.coverage, choice.agreement) == (0.0, 1.0, 1.0)
    assert 0.98 <= choice.agreement_bound < 1


def test_a_student_that_differs_where_it_is_most_sure_answers_nothing() -> None:
    same = np.ones(500, bool)
    same[:50] = False
    probabilities = np.where(same, 0.9, 1.0)
    choice = choose_threshold(probabilities, same, 0.98)
    assert choice and choice.coverage == 0 and choice.threshold > 1


@pytest.mark.parametrize(("rows", "enough"), [(148, False), (149, True)])
def test_too_few_rows_promise_nothing(rows: int, enough: bool) -> None:
    """0.98 ** 149 is the first power below 5 %."""
    choice = choose_threshold(np.full(rows, 0.9), np.ones(rows, bool), 0.98)
    assert (choice is not None) == enough
    assert count_rows_needed(0.98) == 149


@pytest.mark.parametrize(("differing", "rows"), [(0, 10), (3, 50), (10, 872), (50, 50)])
def test_the_bound_is_clopper_pearson(differing: int, rows: int) -> None:
    """At the bound, so few differing rows have a probability of 5 %."""
    bound = bound_agreement(differing, rows)
    if differing < rows:
        assert stats.binom.cdf(differing, rows, 1 - bound) == pytest.approx(0.05)
        assert bound == pytest.approx(
            stats.binomtest(rows - differing, rows, alternative="greater").proportion_ci(0.95).low
        )
    else:
        assert bound == 0


def test_the_curve_goes_from_the_teacher_to_the_student() -> None:
    probabilities = np.array([0.9, 0.6, 0.9, 0.7])
    answers, teacher = np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])
    labels = np.array([1, 0, 1, 1])
    points = trace_fallback(probabilities, answers, teacher, labels)
    assert [point.coverage for point in points] == [0, 0.5, 0.75, 1]
    assert [point.threshold for point in points] == [1, 0.9, 0.7, 0.6]
    assert [point.agreement for point in points] == [1, 0.75, 0.75, 0.5]
    assert [point.accuracy for point in points] == [0.25, 0.5, 0.5, 0.75]
    assert points[-1].agreement_bound == bound_agreement(2, 4)
    many = trace_fallback(np.linspace(0.5, 1, 999), *[np.zeros(999, int)] * 3, points=20)
    assert len(many) == 21 and many[-1].coverage == 1
