"""`Supervisor`: several workers on one port, watched, told of signals, and replaced when they die."""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from distilkit.config import ServeConfig
from distilkit.config.fields import replace_values
from distilkit.errors import UserError
from distilkit.hardware.openmp import available_cores
from distilkit.progress import Reporter
from distilkit.stopping import SIGNALS

if TYPE_CHECKING:
    from distilkit.workflows.serving.metrics import Counts

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported
LONGEST_PAUSE_SECONDS = 30.0  # before a worker that dies again and again is started again
POLL_SECONDS = 0.2


@dataclass
class Worker:
    """Hold a worker's process, and what it says of itself."""

    index: int
    process: BaseProcess
    connection: Connection
    is_ready: bool = False


class Supervisor:
    """Run workers until a signal ends them all.

    Args:
        announce: called with what the model is, once all workers take requests.
    """

    def __init__(
        self,
        config: ServeConfig,
        listener: socket.socket,
        token: str | None,
        reporter: Reporter,
        announce: Callable[[str], None],
    ) -> None:
        threads = config.threads or max(1, len(available_cores()) // config.workers)
        self._config = replace_values(config, threads=threads)
        self._listener, self._token, self._reporter, self._announce = listener, token, reporter, announce
        self._workers: dict[int, Worker] = {}
        self._starts: dict[int, float] = dict.fromkeys(range(config.workers), 0.0)  # when each is due
        self._deaths = dict.fromkeys(range(config.workers), 0)  # before it was ready, in a row
        self._is_announced = self._is_ending = False
        self._failure: str | None = None
        self._folder = Path()  # of the workers' metrics

    def run(self) -> "Counts":
        """Run until a signal has ended all workers; return what they counted.

        Raises:
            UserError: when a worker cannot start at the beginning, as the worker says.
        """
        with tempfile.TemporaryDirectory(prefix="distilkit-metrics-") as folder, self._forwarding_signals():
            self._folder = Path(folder)
            try:
                while self._workers or not self._is_ending:
                    self._start_due()
                    self._listen()
            finally:
                for worker in self._workers.values():  # only after an error
                    worker.process.kill()
            if self._failure is not None:
                raise UserError(self._failure)
            from distilkit.workflows.serving.metrics import read_counts, share_registry

            return read_counts(share_registry(self._folder))

    def _start_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, due in self._starts.items() if due <= now and not self._is_ending]:
            del self._starts[index]
            context = get_context("spawn")  # threads of torch do not survive a fork
            ours, theirs = context.Pipe()
            arguments = (self._config, self._listener, self._token, theirs, self._folder)
            process = context.Process(target=work, args=arguments, name=f"worker {index + 1}")
            process.start()
            theirs.close()
            self._workers[index] = Worker(index, process, ours)
            if self._is_ending:  # a signal came meanwhile
                self._forward(signal.SIGTERM)

    def _listen(self) -> None:
        """Read what workers say, and notice which have ended."""
        workers = list(self._workers.values())
        sources: list[Any] = [worker.connection for worker in workers]
        wait([*sources, *(worker.process.sentinel for worker in workers)], timeout=POLL_SECONDS)
        for worker in workers:
            with suppress(EOFError, OSError):
                while worker.connection.poll():
                    self._heed(worker, *worker.connection.recv())
            if worker.process.exitcode is not None:
                self._bury(worker)

    def _heed(self, worker: Worker, kind: str, message: str) -> None:
        if kind == "note":
            self._reporter.note(message)
        elif kind == "warning":
            self._reporter.warn(message)
        elif kind == "failed":
            if self._is_announced:
                self._reporter.warn(f"worker {worker.index + 1} cannot start: {message}")
            elif self._failure is None:
                self._failure = message
                self._end(signal.SIGTERM)
        elif kind == "ready":
            worker.is_ready, self._deaths[worker.index] = True, 0
            is_complete = len(self._workers) == self._config.workers
            if not self._is_announced and is_complete and all(w.is_ready for w in self._workers.values()):
                self._is_announced = True
                self._announce(message)

    def _bury(self, worker: Worker) -> None:
        """Forget a worker that has ended, and start another unless all are to end."""
        from prometheus_client.multiprocess import mark_process_dead

        worker.process.join()
        worker.connection.close()
        del self._workers[worker.index]
        if self._is_ending:
            return
        mark_process_dead(worker.process.pid, str(self._folder))
        deaths = self._deaths[worker.index] = self._deaths[worker.index] + (not worker.is_ready)
        pause = min(LONGEST_PAUSE_SECONDS, 2.0**deaths) if deaths else 0.0
        self._starts[worker.index] = time.monotonic() + pause
        self._reporter.warn(
            f"worker {worker.index + 1} (process {worker.process.pid}) ended with code "
            f"{worker.process.exitcode}; another is started{f' in {pause:g} s' if pause else ''}"
        )

    def _end(self, signal_number: int) -> None:
        self._is_ending = True
        self._listener.close()  # the workers have theirs
        self._forward(signal_number)

    def _forward(self, signal_number: int) -> None:
        for worker in list(self._workers.values()):
            with suppress(ProcessLookupError):
                if worker.process.pid and worker.process.exitcode is None:
                    os.kill(worker.process.pid, signal_number)

    @contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        """Pass signals on to the workers; after all but a SIGHUP that asks for a reload, end with them."""
        from distilkit.workflows.serving.server import Terminal

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {signal_number: signal.getsignal(signal_number) for signal_number in SIGNALS}
        terminal = Terminal(ignored=old[signal.SIGHUP] is signal.SIG_IGN)

        def handle(signal_number: int, _: FrameType | None) -> None:
            if signal_number == signal.SIGHUP and not terminal.is_closed:
                self._forward(signal_number)
            else:
                self._end(signal_number)

        for signal_number, handler in old.items():
            if handler is not signal.SIG_IGN or signal_number == signal.SIGHUP:
                signal.signal(signal_number, handle)
        try:
            yield
        finally:
            for signal_number, handler in old.items():
                signal.signal(signal_number, handler)


class PipeReporter(Reporter):
    """Send notes and warnings to the supervisor."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, kind: str, message: str) -> None:
        """Send a message; a supervisor that is gone hears nothing."""
        with self._lock, suppress(OSError):
            self._connection.send((kind, message))

    def note(self, message: str) -> None:
        """Send a note."""
        self.send("note", message)

    def warn(self, message: str) -> None:
        """Send a warning."""
        self.send("warning", message)


def work(
    config: ServeConfig, listener: socket.socket, token: str | None, connection: Connection, folder: Path
) -> None:
    """Run a worker in a process of its own; what it has to say goes through `connection`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the server handles it
    signal.signal(signal.SIGHUP, lambda signal_number, frame: None)
    os.environ[METRICS_VARIABLE] = str(folder)
    from distilkit.workflows.serving.worker import run_worker

    reporter = PipeReporter(connection)

    def watch(server: Any) -> None:
        """End with the supervisor, should it be killed."""

        def wait_for_end() -> None:
            with suppress(EOFError, OSError):
                connection.recv()
            server.drain(0)

        threading.Thread(target=wait_for_end, daemon=True).start()

    try:
        run_worker(
            config,
            listener,
            token,
            reporter,
            lambda line: reporter.send("ready", line),
            metrics_folder=folder,
            use_server=watch,
        )
    except UserError as error:
        reporter.send("failed", str(error))
