"""Ctrl-C, SIGTERM and SIGHUP end the work, also where a library swallows the exception."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from distilkit import stopping
from distilkit.runs.folder import writing_folder
from distilkit.stopping import (
    check_stop,
    deferring,
    handling_signals,
    is_stop_requested,
    raise_stop,
    shielded,
)

EXPECTED = {signal.SIGINT: KeyboardInterrupt} | dict.fromkeys(
    (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1), SystemExit
)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    old = {number: signal.getsignal(number) for number in EXPECTED}
    with handling_signals():
        yield
    stopping._requests.forget()
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", EXPECTED, ids=lambda number: number.name)
def test_a_second_signal_does_not_interrupt_the_end_of_the_process(number: signal.Signals) -> None:
    """It killed the process with the signal, or printed a traceback."""
    with pytest.raises(EXPECTED[number]), handling_signals():
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)


def swallow(number: int) -> None:
    """Send a signal inside a bare `except:`, as in `datasets.fingerprint`."""
    with suppress(BaseException):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", EXPECTED, ids=lambda number: number.name)
def test_a_signal_is_raised_at_once(number: signal.Signals) -> None:
    with pytest.raises(EXPECTED[number]) as error:
        os.kill(os.getpid(), number)
    if number != signal.SIGINT:
        assert error.value.args == (128 + number,)


@pytest.mark.parametrize("number", EXPECTED, ids=lambda number: number.name)
def test_a_signal_that_is_swallowed_is_raised_again(number: signal.Signals) -> None:
    """Training would go on, and the command end with exit code 0."""
    swallow(number)
    with pytest.raises(EXPECTED[number]):
        check_stop()


def test_nothing_is_raised_without_a_signal() -> None:
    check_stop()


def test_no_run_is_written_after_a_swallowed_signal(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit),
        writing_folder(tmp_path / "run", "-o", "run", lambda: None) as draft,
    ):
        (draft / "file").write_text("x")
        swallow(signal.SIGTERM)
    assert os.listdir(tmp_path) == []


def test_a_second_signal_does_not_interrupt_the_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C twice within 10 ms left the draft."""
    monkeypatch.setattr(stopping, "REPEAT_SECONDS", 0.0)
    remove = stopping.shielded

    def kill_then_shield() -> object:
        shield = remove()
        shield.__enter__()
        os.kill(os.getpid(), signal.SIGINT)
        shield.__exit__(None, None, None)
        return remove()

    monkeypatch.setattr("distilkit.runs.drafts.shielded", kill_then_shield)
    with (
        pytest.raises(KeyboardInterrupt),
        writing_folder(tmp_path / "run", "-o", "run", lambda: None) as draft,
    ):
        (draft / "file").write_text("x")
        os.kill(os.getpid(), signal.SIGINT)
    assert os.listdir(tmp_path) == []


def test_a_signal_right_after_another_raises_nothing_more() -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_shield_only_delays() -> None:
    with shielded():
        os.kill(os.getpid(), signal.SIGTERM)
        check_stop()
    with pytest.raises(SystemExit):
        check_stop()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """`nohup distilkit train …` must outlive its terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with handling_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        check_stop()


def test_the_loop_reads_the_request() -> None:
    """Between two reports of progress there may be thousands of steps."""
    from distilkit.engine.training import loop

    steps: list[float] = []

    class Learner:
        students = (None,)
        unweighed_parts = (frozenset[str](),)

        def start_epoch(self) -> None: ...

        def flush(self, students: object) -> None: ...

        def step(self, batches: object, progress: float) -> None:
            steps.append(progress)

    class Loader(list[int]):
        def set_epoch(self, epoch: int) -> None: ...

    swallow(signal.SIGTERM)
    records = loop.fit(Learner(), Loader([1, 2]), epochs=1, validate=lambda _: {}, metric="x")  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        next(records)
    assert not steps


# --- work that can be continued later ----------------------------------------------------------------------


@pytest.mark.parametrize("number", EXPECTED, ids=lambda number: number.name)
def test_a_deferred_signal_is_only_remembered_until_the_work_asks(number: signal.Signals) -> None:
    """A training would end in the middle of a step, and lose all steps since the last checkpoint."""
    with deferring():
        assert not is_stop_requested()
        raise_stop()
        os.kill(os.getpid(), number)
        check_stop()
        assert is_stop_requested()
        with pytest.raises(EXPECTED[number]):
            raise_stop()


def test_a_second_signal_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint on a slow disk would keep a person from leaving."""
    monkeypatch.setattr(stopping, "REPEAT_SECONDS", 0.0)
    with deferring():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit):
            check_stop()


def test_a_key_that_bounces_is_no_second_signal() -> None:
    with deferring():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        check_stop()


def test_what_was_deferred_is_raised_behind_the_block() -> None:
    with deferring():
        os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(SystemExit) as error:
        check_stop()
    assert error.value.args == (128 + signal.SIGUSR1,)
