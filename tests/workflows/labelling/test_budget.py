"""`Budget`: a limit that is reached stops a command, and does not keep it waiting."""

from threading import Thread

import pytest

from distilkit.workflows.labelling.budget import Budget, BudgetSpent, Stopped


def test_a_limit_ends_the_wait_once_nothing_is_in_flight() -> None:
    """What is left of sums of floats looked like a request that was still in flight, for ever."""
    budget = Budget(None, 1.0)
    for bound in (0.1, 0.2, 0.3):
        budget.reserve(bound)
    for bound in (0.1, 0.2, 0.3):
        budget.settle(bound, 0.2)
    errors: list[Exception] = []

    def reserve() -> None:
        try:
            budget.reserve(5.0)
        except BudgetSpent as error:
            errors.append(error)

    waiting = Thread(target=reserve, daemon=True)
    waiting.start()
    waiting.join(30)
    assert len(errors) == 1 and budget.requests == 3


def test_a_request_waits_for_those_in_flight_and_is_sent_if_they_cost_less() -> None:
    budget = Budget(None, 1.0)
    budget.reserve(0.9)
    waiting = Thread(target=budget.reserve, args=(0.9,), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive() and budget.requests == 1
    budget.settle(0.9, 0.05)
    waiting.join(30)
    assert not waiting.is_alive() and budget.requests == 2


def test_after_a_failure_no_request_is_sent() -> None:
    budget = Budget(None, None)
    budget.stop()
    with pytest.raises(Stopped):
        budget.reserve(0.0)
    with pytest.raises(Stopped):
        budget.repeat(0.0, was_lost=False)
