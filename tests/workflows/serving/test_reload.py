"""A model is exchanged while it serves: no request notices, and a broken folder changes nothing."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from distilkit import ServeConfig, UserError
from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions
from distilkit.progress import Reporter
from distilkit.workflows.serving.app import make_app
from distilkit.workflows.serving.batcher import Batcher
from distilkit.workflows.serving.metrics import Metrics
from distilkit.workflows.serving.served import Served
from distilkit.workflows.serving.server import Server, Terminal, bind
from distilkit.workflows.serving.service import Service

CONFIG = ServeConfig(model="a", port=0, drain_seconds=0)


class Said(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    warn = note


class Site:
    """A server whose models answer with their version; the first waits until `gate` is open."""

    def __init__(self) -> None:
        self.versions, self.said = iter(range(1, 9)), Said()
        self.gate, self.begun, self.started = threading.Event(), threading.Event(), threading.Event()
        self.models: list[Served] = []
        self.failure: Exception | None = None
        first = self.load()
        first.__enter__()
        self.service = Service(CONFIG, first, Metrics(), token=None)
        app = make_app(self.service, "a", has_token=False)
        self.server = Server(app, self.service, CONFIG, self.started.set, self.load, self.said)

    def load(self) -> Served:
        if self.failure:
            raise self.failure
        version = next(self.versions)

        def answer(texts: Texts) -> Predictions:
            if version == 1:
                self.begun.set()
                assert self.gate.wait(60)
            return Predictions((f"v{version}", "b"), np.tile([0.9, 0.1], (len(texts), 1)))

        batcher = Batcher(answer, batch_size=8, wait_seconds=0, queue_size=8)
        self.models.append(Served(CONFIG, batcher, class_names=("a", "b")))
        return self.models[-1]

    def ask(self) -> str:
        answer = requests.post(self.url, json={"inputs": "a"}, timeout=60).json()
        return str(answer[0]["label"])

    def wait_until(self, condition: Callable[[], object]) -> None:
        for _ in range(6000):
            if condition():
                return
            threading.Event().wait(0.01)
        raise AssertionError(self.said.lines)

    url = ""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    listener: socket.socket
    with bind(CONFIG.host, 0) as listener:
        site.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=site.server.serve_on, args=[listener])
        thread.start()
        try:
            assert site.started.wait(60)
            yield site
        finally:
            site.gate.set()
            site.server.drain(0)
            thread.join(60)
            site.service.served.__exit__(None, None, None)
    assert not any(model.is_alive for model in site.models), "a model that is no longer served has ended"


def test_a_request_is_answered_by_the_model_that_it_began_with(site: Site) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(site.ask)
        assert site.begun.wait(60)
        site.server.request_reload()
        site.wait_until(lambda: site.said.lines)
        assert site.ask() == "v2" and not first.done()
        assert site.models[0].is_alive, "it still has a request to answer"
        site.gate.set()
        assert first.result() == "v1"
    site.wait_until(lambda: not site.models[0].is_alive)
    assert site.said.lines == ["a was loaded again and answers from now on"]


@pytest.mark.parametrize("failure", [UserError("a: no weights"), RuntimeError("no weights")])
def test_a_broken_folder_leaves_the_model_before(site: Site, failure: Exception) -> None:
    site.gate.set()
    site.failure = failure
    site.server.request_reload()
    site.wait_until(lambda: site.said.lines)
    assert "no weights" in site.said.lines[0] and "the one before goes on" in site.said.lines[0]
    assert site.ask() == "v1"
    site.failure = None
    site.server.request_reload()
    site.wait_until(lambda: len(site.said.lines) == 2)
    assert site.ask() == "v2"


@pytest.mark.parametrize(
    ("before", "ignored", "after", "closed"),
    [
        (True, False, False, True),
        (True, False, True, False),
        (False, False, False, False),
        (True, True, False, False),
    ],
)
def test_a_hangup_ends_a_server_only_with_its_terminal(
    monkeypatch: pytest.MonkeyPatch, before: bool, ignored: bool, after: bool, closed: bool
) -> None:
    """A daemon has no terminal, and nohup outlives its own: there SIGHUP asks for a reload."""
    monkeypatch.setattr(Terminal, "_can_open", staticmethod(lambda: before))
    terminal = Terminal(ignored=ignored)
    monkeypatch.setattr(Terminal, "_can_open", staticmethod(lambda: after))
    assert terminal.is_closed is closed


def test_models_that_are_cancelled_are_not_in_use() -> None:
    """One that seemed to be in use for ever would never be given back."""
    gate = threading.Event()

    def wait(texts: Texts) -> Predictions:
        gate.wait(60)
        return Predictions(("a", "b"), np.tile([0.9, 0.1], (len(texts), 1)))

    async def give_up(served: Served) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(served.answer(Texts(["a"])), 0.01)

    with Served(
        CONFIG, Batcher(wait, batch_size=8, wait_seconds=0, queue_size=8), class_names=("a", "b")
    ) as served:
        asyncio.run(give_up(served))
        assert served.users == 0
        gate.set()
