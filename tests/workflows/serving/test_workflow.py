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

from distilkit import EvaluateConfig, ServeConfig, UserError, evaluate
from distilkit import serve as serve_model
from distilkit.runs.run import Run
from distilkit.workflows.serving import workflow
from distilkit.workflows.serving.workflow import read_token

TEXTS = [*GOOD, *BAD]
CLIENTS = 8


class Process:
    """A server that is up; `end` sends it a signal and returns what it printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.notes: list[str] = []
        assert process.stderr
        for line in process.stderr:
            self.notes.append(line)
            if " answers with " in line:
                self.url = line.split(" answers with ")[0]
                return
        raise AssertionError("".join(self.notes))

    def end(self, signal_number: int) -> tuple[int, str, str]:
        self.process.send_signal(signal_number)
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


Start = Callable[..., AbstractContextManager[Process]]


@pytest.fixture
def start() -> Start:
    @contextmanager
    def run(model: Run, *options: str, **variables: str) -> Iterator[Process]:
        command = [sys.executable, "-m", "distilkit", "serve", str(model.path), "--port", "0", *options]
        with subprocess.Popen(
            [*command, "--precision", "fp32", "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        ) as process:
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


def test_sigterm_under_load_loses_nothing_that_was_accepted(teacher_run: Run, start: Start) -> None:
    """Every answer that the server counts has reached its client, whole, and nothing else was begun."""
    answers: list[int] = []
    unready = threading.Event()

    def ask(url: str) -> None:
        with requests.Session() as session:
            while True:
                try:
                    answer = session.post(url, json={"inputs": TEXTS}, timeout=60)
                except requests.ConnectionError:
                    return  # it listens no more
                assert len(answer.json()) == len(TEXTS)
                answers.append(answer.status_code)
                if answer.headers.get("connection") == "close":
                    unready.set()

    with start(teacher_run, "--json", "--drain-seconds", "0.5", "--queue-size", "4096") as process:
        threads = [threading.Thread(target=ask, args=[process.url]) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while len(answers) < 4 * CLIENTS:
            threading.Event().wait(0.01)
        code, out, err = process.end(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert set(answers) == {200} and unready.is_set()
    assert document["answered"] == len(answers) == document["requests"] - document["refused"]
    assert document["texts"] == len(answers) * len(TEXTS)


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
