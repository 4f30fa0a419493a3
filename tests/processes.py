"""Python processes forked from one that has imported everything, for tests that start and kill many.

They are processes of their own in all that a kill, a lock or a second command on the same files can show, and
begin within milliseconds: to import torch and transformers takes a new interpreter several seconds. What is
about that start itself, or about how an interpreter is set up, needs `subprocess`. So does one process of
each test whose result must not depend on the order of sets: all that are forked hash alike.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import reduction
from types import TracebackType
from typing import IO, Any, Self

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("hypothesis", "matplotlib.figure", "optuna", "pytest", "sklearn.metrics", "sqlalchemy"),
        *("fastapi", "prometheus_client", "uvicorn"),
        "distilkit.cli.app",
        "distilkit.workflows.labelling.workflow",
        "distilkit.workflows.prediction.workflow",
        "distilkit.workflows.serving.workflow",
        "distilkit.workflows.sweeping.search",
        "distilkit.workflows.sweeping.workflow",
        "transformers.models.bert.modeling_bert",
    ]
)
PIPE = subprocess.PIPE


class _End:
    """The end of a pipe that a process gets with its arguments, as the number of its file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> Any:
        return _detach, (reduction.DupFd(self.descriptor),)


def _detach(passed: Any) -> int:
    return int(passed.detach())


def _run(
    arguments: Sequence[str], folder: str, environment: Mapping[str, str], ends: Mapping[int, int]
) -> None:
    """Be `python ARGUMENTS`; `ends` are the files that standard streams are replaced with."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, end in ends.items():
        os.dup2(end, stream)
        os.close(end)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    kind, content, *sys.argv[1:] = arguments
    if kind == "-m":
        sys.argv[0] = content
        runpy.run_module(content, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c"
        sys.argv[0] = "-c"
        exec(compile(content, "<string>", "exec"), {"__name__": "__main__"})


class WarmProcess:
    """`subprocess.Popen([sys.executable, *arguments], text=True)` of a forked process.

    Args:
        arguments: `-m` or `-c`, and what follows.
        stdin, stdout, stderr: `PIPE`; else `stdin` is empty, and the others are those of the tests.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        ends: dict[int, int] = {}
        files: list[IO[str] | None] = []
        for stream, wish in enumerate((stdin, stdout, stderr)):
            assert wish in (None, PIPE)
            if wish is None:
                files.append(None)
                continue
            reading, writing = os.pipe()
            ends[stream] = writing if stream else reading
            files.append(os.fdopen(reading) if stream else os.fdopen(writing, "w"))
        self.stdin, self.stdout, self.stderr = files
        command = [str(argument) for argument in arguments]
        passed = {stream: _End(end) for stream, end in ends.items()}
        environment = dict(os.environ if env is None else env)
        self._process = CONTEXT.Process(
            target=_run, args=(command, os.getcwd(), environment, passed), daemon=True
        )
        self._process.start()
        for end in ends.values():
            os.close(end)
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what is left of stdout and stderr, and wait for the end."""
        with ThreadPoolExecutor(2) as readers:
            reading = [readers.submit(stream.read) for stream in (self.stdout, self.stderr) if stream]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # which ends what the readers wait for
                raise
        texts = [text.result() for text in reading]
        out = texts.pop(0) if self.stdout else ""
        self.close()
        return out, texts.pop() if texts else ""

    def close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self.kill()
        self.wait()
        self.close()
