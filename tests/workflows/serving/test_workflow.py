"""`distilkit serve` in a process of its own, as a person starts it and a supervisor ends it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import BAD, GOOD, Call
from processes import PIPE, WarmProcess

from distilkit import EvaluateConfig, ServeConfig, UserError, evaluate
from distilkit import serve as serve_model
from distilkit.runs.run import Run
from distilkit.workflows.serving import workflow
from distilkit.workflows.serving.workflow import read_token

TEXTS = [*GOOD, *BAD]
CLIENTS = 8


class Process:
    """A server that is up; `end` sends it a signal and returns what it printed."""

    def __init__(self, process: "subprocess.Popen[str] | WarmProcess") -> None:
        self.process = process
        self.notes: list[str] = []
        assert process.stderr
        for line in process.stderr:
            self.notes.append(line)
            if " answers with " in line:
                self.url = line.split(" answers with ")[0]
                return
        raise AssertionError("".join(self.notes))

    def wait_for(self, part: str) -> str:
        """Return the next line of notes that holds this."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.notes.append(line)
            if part in line:
                return line
        raise AssertionError("".join(self.notes))

    def end(self, signal_number: int) -> tuple[int, str, str]:
        self.process.send_signal(signal_number)
        out, err = self.process.communicate(timeout=120)
        code = self.process.returncode
        assert code is not None
        return code, out, err


Start = Callable[..., AbstractContextManager[Process]]


@pytest.fixture
def start() -> Start:
    @contextmanager
    def run(model: Run, *options: str, **variables: str) -> Iterator[Process]:
        command = ["-m", "distilkit", "serve", str(model.path), "--port", "0", *options]
        command += ["--precision", "fp32", "--device", "cpu"]
        begun: subprocess.Popen[str] | WarmProcess
        streams: dict[str, Any] = {"stdout": PIPE, "stderr": PIPE, "env": os.environ | variables}
        if "--workers" in options:  # which are started as their supervisor was
            begun = subprocess.Popen([sys.executable, *command], text=True, **streams)
        else:
            begun = WarmProcess(command, **streams)
        with begun as process:
            try:
                yield Process(process)
            finally:
                process.kill()

    return run


def test_evaluating_the_served_model_equals_evaluating_its_folder(
    teacher_run: Run, sst2_dir: Path, start: Start
) -> None:
    """To the row: both classes are among the answers, so that a row in another's place would show."""
    options: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "latency": False}
    with start(teacher_run, DISTILKIT_SERVE_TOKEN="hush") as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DISTILKIT_ENDPOINT_TOKEN", "hush")
            result = evaluate(
                EvaluateConfig(
                    models=(str(teacher_run.path),),
                    endpoint=(process.url + "/",),
                    endpoint_batch_size=3,
                    precision="fp32",
                    **options,
                )
            )
        assert process.end(signal.SIGINT)[0] == 0
    folder, endpoint = result.scores
    assert endpoint.figures["accuracy"] == folder.figures["accuracy"]
    rows = [score.model_scores.answers.answer.tolist() for score in (folder, endpoint)]
    assert rows[0] == rows[1] and len(set(rows[0])) == 2


def test_what_is_no_http_after_its_head_is_refused_without_a_word(
    bilstm_runs: tuple[Run, Run], start: Start
) -> None:
    """Each such request printed a traceback of 40 lines: whoever sends them would fill the disk."""
    with start(bilstm_runs[0]) as process:
        port = int(process.url.rsplit(":", 1)[1])
        statuses = []
        for path in ("/nothing", "/predict", "/health"):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n".encode()
                )
                statuses.append(client.recv(100).split(b"\r\n")[0])
        assert statuses == [b"HTTP/1.1 400 Bad Request"] * 3
        assert requests.post(process.url + "/predict", json={"inputs": "a great film"}, timeout=60).ok
        code, _, err = process.end(signal.SIGINT)
    assert code == 0 and "Traceback" not in err and "ERROR" not in err, err


class Load:
    """Clients that ask until the server listens no more, and count what they got."""

    def __init__(self, url: str) -> None:
        self.answers: list[int] = []
        self.unready = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[url]) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        while len(self.answers) < 4 * CLIENTS:
            threading.Event().wait(0.01)

    def _ask(self, url: str) -> None:
        with requests.Session() as session:
            while True:
                try:
                    answer = session.post(url, json={"inputs": TEXTS}, timeout=60)
                except requests.ConnectionError:
                    return  # it listens no more
                assert len(answer.json()) == len(TEXTS)
                self.answers.append(answer.status_code)
                if answer.headers.get("connection") == "close":
                    self.unready.set()

    def check(self, out: str) -> None:
        """Check that every answer that the server counts has reached its client, whole."""
        for thread in self._threads:
            thread.join(60)
        document = json.loads(out)
        assert set(self.answers) == {200} and self.unready.is_set()
        assert document["answered"] == len(self.answers) == document["requests"] - document["refused"]
        assert document["texts"] == len(self.answers) * len(TEXTS)


def test_sigterm_under_load_loses_nothing_that_was_accepted(teacher_run: Run, start: Start) -> None:
    with start(teacher_run, "--json", "--drain-seconds", "0.5", "--queue-size", "4096") as process:
        load = Load(process.url)
        code, out, err = process.end(signal.SIGTERM)
        load.check(out)
    assert (code, err) == (0, "")


def test_workers_share_a_port_are_replaced_reloaded_and_drained(teacher_run: Run, start: Start) -> None:
    """A worker that dies, and one that is told to load its model again, must not be missed by any client."""
    with start(
        teacher_run, "--json", "--workers", "2", "--drain-seconds", "0.5", "--queue-size", "4096"
    ) as process:
        assert " 2 workers." in process.notes[-1]
        children = [
            int(pid)
            for pid in Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children")
            .read_text()
            .split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        assert "ended with code -9; another is started" in process.wait_for("worker ")
        load = Load(process.url)
        process.process.send_signal(signal.SIGHUP)
        process.wait_for("was loaded again")
        code, out, err = process.end(signal.SIGTERM)
        load.check(out)
    assert code == 0 and "ended" not in err


def test_a_worker_that_cannot_start_is_a_mistake(console: Call, tmp_path: Path) -> None:
    answer = console("serve", str(tmp_path), "--port", "0", "--workers", "2")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("neither a run nor a model") == 1


def test_a_port_that_is_taken_is_a_mistake(console: Call, teacher_run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        answer = console("serve", str(teacher_run.path), "--port", port)
    assert (answer.code, answer.out) == (2, "")
    assert f"--port {port}: something listens there already" in answer.err and "--port 0" in answer.err


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "a" * 300])
def test_a_host_that_is_not_this_machine_is_a_mistake(console: Call, teacher_run: Run, host: str) -> None:
    answer = console("serve", str(teacher_run.path), "--port", "0", "--host", host)
    assert (answer.code, answer.out) == (2, "")
    assert f"--host {host[:200]}" in answer.err and len(answer.err) < 1000


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "ü"])
def test_a_token_that_no_header_can_hold_is_a_mistake_and_is_not_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one would let in everyone."""
    monkeypatch.setenv("DISTILKIT_SERVE_TOKEN", token)
    with pytest.raises(UserError, match="DISTILKIT_SERVE_TOKEN must be") as refused:
        read_token()
    assert not token.strip() or token not in str(refused.value)


def test_without_the_extra_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, teacher_run: Run
) -> None:
    monkeypatch.setattr(workflow, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'distilkit\[serve\]'"):
        serve_model(ServeConfig(model=str(teacher_run.path)))


def test_more_items_than_the_queue_holds_are_refused() -> None:
    """Such a request would get 429 for ever."""
    with pytest.raises(UserError, match="max_items 9 is more than queue_size 8"):
        ServeConfig(model="a", max_items=9, queue_size=8)
