"""A server in a thread, asked over HTTP as its clients do."""

import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import requests
from conftest import BAD, GOOD

from distilkit import Predictor, ServeConfig, load
from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions
from distilkit.runs.run import Run
from distilkit.workflows.serving.app import make_app
from distilkit.workflows.serving.batcher import Batcher
from distilkit.workflows.serving.metrics import Metrics
from distilkit.workflows.serving.served import Served
from distilkit.workflows.serving.server import Server, bind
from distilkit.workflows.serving.service import Service

TEXTS = [*GOOD, *BAD]
PROBES = ("/health", "/ready", "/ping")


class Running:
    """A server that takes requests at `url`; its model waits while `gate` is closed."""

    def __init__(self, predictor: Predictor, config: ServeConfig, token: str | None) -> None:
        self.gate, self.begun = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.predictor, self.config, self.metrics = predictor, config, Metrics()
        self.batcher = Batcher(
            self.predict,
            batch_size=config.batch_size,
            wait_seconds=config.wait_ms / 1000,
            queue_size=config.queue_size,
            observe=self.metrics.observe_batch,
        )
        self.served = Served(config, self.batcher, class_names=predictor.class_names)
        self.service = Service(config, self.served, self.metrics, token=token)
        self.metrics.watch_queue(lambda: self.service.served.queued_rows)
        self.url = ""

    def predict(self, texts: Texts) -> Predictions:
        self.begun.release()
        assert self.gate.wait(60)
        if "fail" in texts.first:
            raise RuntimeError("a secret text")
        return self.predictor.predict(texts.first, texts.second)

    def post(self, document: Any, path: str = "/", **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=document, timeout=60, **options)

    def send(self, body: Any, **headers: str) -> requests.Response:
        return requests.post(self.url, data=body, headers=headers, timeout=60)

    def wait_until_queued(self, rows: int) -> None:
        while self.batcher.queued_rows < rows:
            threading.Event().wait(0.005)


Serve = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def predictor(teacher_run: Run) -> Predictor:
    return load(str(teacher_run.path), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def serve(predictor: Predictor) -> Serve:
    @contextmanager
    def start(token: str | None = None, **options: Any) -> Iterator[Running]:
        config = ServeConfig(model="a", port=0, drain_seconds=0, **options)
        running, started = Running(predictor, config, token), threading.Event()
        app = make_app(running.service, "a", has_token=token is not None)
        server = Server(app, running.service, config, started.set)
        with bind(config.host, config.port) as listener, running.served:
            running.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            thread = threading.Thread(target=server.serve_on, args=[listener])
            thread.start()
            try:
                assert started.wait(60)
                yield running
            finally:
                running.gate.set()
                server.drain(0)
                thread.join(60)
        assert not thread.is_alive()

    return start


@pytest.fixture(scope="module")
def running(serve: Serve) -> Iterator[Running]:
    with serve(max_body_bytes=10_000) as running:
        yield running


@pytest.mark.parametrize("path", ["/", "/predict", "/invocations"])
def test_answers_are_those_of_the_predictor(running: Running, predictor: Predictor, path: str) -> None:
    answer = running.post({"inputs": TEXTS}, path).json()
    expected = predictor.predict(TEXTS)
    assert [items[0]["label"] for items in answer] == expected.labels
    assert [items[0]["score"] for items in answer] == expected.scores.tolist()
    assert all(sum(item["score"] for item in items) == pytest.approx(1) for items in answer)
    (single,) = predictor.predict(GOOD[0]).probabilities.tolist()
    assert {item["label"]: item["score"] for item in running.post({"inputs": GOOD[0]}).json()} == {
        "negative": single[0],
        "positive": single[1],
    }


def test_pairs_are_answered_as_pairs(running: Running, predictor: Predictor) -> None:
    pair = {"text": GOOD[0], "text_pair": BAD[0]}
    (expected,) = predictor.predict([GOOD[0]], [BAD[0]]).scores.tolist()
    assert running.post({"inputs": pair}).json()[0]["score"] == expected
    assert running.post({"inputs": [pair]}).json()[0][0]["score"] == expected


@pytest.mark.parametrize("text", ["", " ", "\0", "\u2028", "😀" * 50, "a" * 5000])
def test_any_text_is_answered(running: Running, text: str) -> None:
    assert running.post({"inputs": text}).status_code == 200


def test_texts_of_concurrent_requests_are_answered_in_one_batch(serve: Serve, predictor: Predictor) -> None:
    with serve() as running, ThreadPoolExecutor(9) as pool:
        running.gate.clear()
        first = pool.submit(running.post, {"inputs": "the"})
        assert running.begun.acquire(timeout=60)
        answers = [pool.submit(running.post, {"inputs": text}) for text in TEXTS]
        running.wait_until_queued(len(TEXTS))
        assert "te_queue_size 8.0" in requests.get(running.url + "/metrics", timeout=60).text
        running.gate.set()
        labels = [answer.result().json()[0]["label"] for answer in answers]
        assert first.result().status_code == 200 and labels == predictor.predict(TEXTS).labels
        text = requests.get(running.url + "/metrics", timeout=60).text
    assert "te_batch_next_size_count 2.0" in text and "te_batch_next_size_sum 9.0" in text
    assert 'te_request_success{method="single"} 9.0' in text


def test_a_full_queue_says_when_to_try_again(serve: Serve) -> None:
    with serve(queue_size=2, max_items=2) as running, ThreadPoolExecutor(2) as pool:
        running.gate.clear()
        answers = [pool.submit(running.post, {"inputs": "the"})]
        assert running.begun.acquire(timeout=60)
        answers.append(pool.submit(running.post, {"inputs": ["the", "film"]}))
        running.wait_until_queued(2)
        refused = running.post({"inputs": "the"})
        running.gate.set()
        assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert running.post({"inputs": "the"}).status_code == 200


def test_a_text_that_waits_too_long_is_refused_and_not_computed(serve: Serve) -> None:
    with serve(timeout=0.3) as running, ThreadPoolExecutor(1) as pool:
        running.gate.clear()
        first = pool.submit(running.post, {"inputs": "the"})
        assert running.begun.acquire(timeout=60)
        late = running.post({"inputs": "film"})
        assert (late.status_code, late.json()["error_type"]) == (503, "timeout")
        assert "retry-after" in late.headers
        assert first.result().status_code == 503
        running.gate.set()
        assert running.post({"inputs": "the"}).status_code == 200
        text = requests.get(running.url + "/metrics", timeout=60).text
    assert 'te_request_failure{err="timeout"} 2.0' in text and "te_predict_count 1.0" in text


@pytest.mark.parametrize("size", [10_001, 20_000_000])
@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_body_that_is_too_large_is_refused(running: Running, size: int, in_chunks: bool) -> None:
    """Also where no Content-Length says so beforehand."""
    body = json.dumps({"inputs": "a" * size}).encode()
    parts = (body[i : i + 65536] for i in range(0, len(body), 65536))
    answer = running.send(parts if in_chunks else body)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "too_large")
    assert "more than 10,000 bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\0\xff" * 99,
        b"[" * 9000,
        b"[]",
        b'{"inputs": []}',
        b'{"inputs": [NaN]}',
        b'{"inputs": 3}',
    ],
)
def test_a_bad_body_is_refused_with_a_reason(running: Running, body: bytes) -> None:
    answer = running.send(body)
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "error_type"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("PUT", "/predict", 405), ("GET", "/nothing", 404), ("POST", "/health", 405)],
)
def test_a_wrong_route_is_a_client_error(running: Running, method: str, path: str, status: int) -> None:
    answer = requests.request(method, running.url + path, timeout=60)
    assert answer.status_code == status and "See /docs" in answer.json()["error"]


def test_a_compressed_body_is_refused(running: Running) -> None:
    assert running.send(b"{}", **{"content-encoding": "gzip"}).status_code == 415


def test_a_body_that_does_not_arrive_ends_with_408(serve: Serve) -> None:
    """A slow client must not keep a connection for ever."""
    with serve(timeout=0.3) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_bytes_that_are_no_http_are_refused(running: Running) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_no_text_gets_into_a_log(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert running.post({"inputs": ["fail", "a secret text"]}).status_code == 500
        assert running.post({"inputs": "a secret text"}).status_code == 200
        assert running.post({"inputs": {"text": ["a secret text"]}}).status_code == 422
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text
    assert "fail" not in re.sub("a request failed", "", caplog.text)


def test_a_token_is_asked_for_wherever_texts_or_figures_are(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), serve(token="hush-hush") as running:
        for header in (None, "hush-hush", "Bearer wrong", "Basic hush-hush", "Bearer", "Bearer \xff"):
            headers = {} if header is None else {"authorization": header}
            refused = running.post({"inputs": "the"}, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), header
            assert requests.get(running.url + "/metrics", headers=headers, timeout=60).status_code == 401
        right = {"authorization": "Bearer hush-hush"}
        assert running.post({"inputs": "the"}, headers=right).status_code == 200
        text = requests.get(running.url + "/metrics", headers=right, timeout=60).text
        assert 'te_request_failure{err="unauthorized"}' in text
        for path in ("/health", "/ready", "/ping"):
            assert requests.get(running.url + path, timeout=60).status_code == 200
    assert "hush" not in caplog.text


def test_the_probes_say_what_state_the_server_is_in(serve: Serve) -> None:
    with serve() as running:

        def ask() -> list[int]:
            return [requests.get(running.url + path, timeout=60).status_code for path in PROBES]

        assert ask() == [200, 200, 200]
        running.service.is_ready = False  # as after SIGTERM
        assert ask() == [200, 503, 503]
        answer = running.post({"inputs": "the"})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_metrics_have_the_names_and_types_that_dashboards_ask_for(running: Running) -> None:
    running.post({"inputs": ["the"]})
    running.post({"inputs": []})
    text = requests.get(running.url + "/metrics", timeout=60).text
    kinds = dict(re.findall(r"^# TYPE (te_\w+) (\w+)$", text, re.MULTILINE))
    counters = (
        *("te_request_count", "te_request_success", "te_request_failure", "te_predict_count"),
        "te_fallback_count",
    )
    histograms = (
        *("te_request_duration", "te_request_queue_duration", "te_request_inference_duration"),
        "te_batch_next_size",
    )
    expected = dict.fromkeys(counters, "counter") | dict.fromkeys(histograms, "histogram")
    assert kinds == expected | {"te_queue_size": "gauge"}
    assert 'te_request_success{method="batch"}' in text and 'te_request_failure{err="validation"}' in text
    assert "process_resident_memory_bytes" in text and "_created" not in text


def test_the_description_of_the_routes_shows_what_is_sent_and_answered(running: Running) -> None:
    document = requests.get(running.url + "/openapi.json", timeout=60).json()
    for path in ("/", "/predict", "/invocations"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert running.post(body["example"]).status_code == 200
        assert {"200", "413", "422", "429"} <= set(document["paths"][path]["post"]["responses"])
    assert list(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert "not a pair" in json.dumps(document) or "A list is a batch" in json.dumps(document)
    assert requests.get(running.url + "/docs", timeout=60).status_code == 200
