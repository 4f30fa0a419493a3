"""Remember requests to stop (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1), so that no library can swallow them.

The handler raises an exception inside whatever runs at that moment. A bare `except:` in a library, or a
destructor, can lose it; the request stays, and `check_stop` raises it again.

Work that can be continued later ends at a point of its choice: within `deferring` the first request is only
remembered, the work asks `is_stop_requested` now and then, saves what it has and calls `raise_stop`.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Keys bounce and schedulers repeat themselves: what comes so soon must not interrupt the clean-up.
REPEAT_SECONDS = 1.0


class _Requests:
    """Hold the signals that were received, and when one was last raised as an exception."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.raised_at = float("-inf")
        self.shields = 0
        self.deferrals = 0  # of all threads
        self.is_deferred = False  # whether the only request so far was just remembered
        self.lock = threading.Lock()

    def forget(self) -> None:
        self.received.clear()
        self.raised_at, self.is_deferred = float("-inf"), False

    def handle(self, signal_number: int, _: FrameType | None) -> None:
        self.received.append(signal_number)
        if not self.shields and time.monotonic() - self.raised_at >= REPEAT_SECONDS:
            self.raised_at = time.monotonic()
            self.is_deferred = self.deferrals > 0 and len(self.received) == 1
            if not self.is_deferred:
                raise _exception(signal_number)


_requests = _Requests()


def _exception(signal_number: int) -> BaseException:
    return KeyboardInterrupt() if signal_number == signal.SIGINT else SystemExit(128 + signal_number)


@contextmanager
def handling_signals() -> Iterator[None]:
    """Turn the signals into exceptions while the block runs; a signal that is ignored stays ignored.

    Once one was received the process is about to end, and the handlers stay: another must not interrupt that.
    """
    _requests.forget()  # a process may run several commands, one after the other
    old = {signal_number: signal.getsignal(signal_number) for signal_number in SIGNALS}
    for signal_number, handler in old.items():
        if handler is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(signal_number, _requests.handle)
    try:
        yield
    finally:
        if not _requests.received:
            for signal_number, handler in old.items():
                signal.signal(signal_number, handler)


def check_stop() -> None:
    """Raise again what was received: `KeyboardInterrupt`, or `SystemExit` with 128 + the signal's number."""
    waits = _requests.shields or (_requests.is_deferred and _requests.deferrals)
    if _requests.received and not waits:
        raise _exception(_requests.received[0])


def is_stop_requested() -> bool:
    """Return whether a signal was received."""
    return bool(_requests.received)


def raise_stop() -> None:
    """Raise what was received, also within `deferring`; do nothing without a signal."""
    if _requests.received:
        raise _exception(_requests.received[0])


@contextmanager
def deferring() -> Iterator[None]:
    """Leave it to the block to end at the first signal: a second one is raised at once."""
    with _requests.lock:
        _requests.deferrals += 1
    try:
        yield
    finally:
        with _requests.lock:
            _requests.deferrals -= 1


@contextmanager
def shielded() -> Iterator[None]:
    """Only remember signals while the block runs, which must be short: a clean-up or an exchange."""
    _requests.shields += 1
    try:
        yield
    finally:
        _requests.shields -= 1
