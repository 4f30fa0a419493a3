"""Answers from a URL arrive in the order of the rows, and malformed ones are refused and not scored."""

import gzip
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import rows

from distilkit import EvaluateConfig, GateMissed, evaluate
from distilkit.engine.inference import endpoint, posting
from distilkit.engine.inference.endpoint import Endpoint, post_rows
from distilkit.errors import UserError
from distilkit.workflows.evaluation.gates import check_gates

Reply = Callable[[list[Any]], tuple[int, Any]]


class Server:
    """A classifier on the loopback interface; `reply` maps inputs to status and body."""

    def __init__(self) -> None:
        self.reply: Reply = lambda inputs: (
            200,
            [{"label": "pos", "score": float(text) / 100} for text in inputs],
        )
        self.asked: list[list[Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.max_in_flight = 0
        self.retry_after: str | None = None
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
                with server._lock:
                    server.asked.append(inputs)
                    server.headers.append(dict(self.headers))
                    server.in_flight += 1
                    server.max_in_flight = max(server.max_in_flight, server.in_flight)
                status, body = server.reply(inputs)
                with server._lock:
                    server.in_flight -= 1
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if server.retry_after is not None:
                    self.send_header("Retry-After", server.retry_after)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/predict"

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "FIRST_WAIT_SECONDS", 0.01)


def endpoint_of(server: Server, **changes: Any) -> Endpoint:
    defaults: dict[str, Any] = {"batch_size": 4, "concurrency": 3, "timeout": 5.0, "retries": 2}
    return Endpoint(server.url, **(defaults | changes))


TEXTS = [str(number) for number in range(50)]


def test_answers_come_in_the_order_of_the_rows(server: Server) -> None:
    """Requests overtake each other: answers in order of arrival would belong to other rows."""

    def slow_first(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.05 if "0" in inputs else 0)
        return 200, [{"label": "pos", "score": float(text) / 100} for text in inputs]

    server.reply = slow_first
    done: list[int] = []
    answers = post_rows(endpoint_of(server), iter(TEXTS), advance=done.append)
    assert answers.scores == [number / 100 for number in range(50)]
    assert answers.labels == ["pos"] * 50
    assert len(answers.seconds) == len(server.asked) == 13
    assert sorted(text for batch in server.asked for text in batch) == sorted(TEXTS)
    assert done == sorted(done) and done[-1] == 50


def test_concurrency_is_the_number_of_requests_in_flight(server: Server) -> None:
    def slow(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.02)
        return 200, [{"label": "pos", "score": 1.0}] * len(inputs)

    server.reply = slow
    post_rows(endpoint_of(server, batch_size=1, concurrency=3), iter(TEXTS[:20]))
    assert server.max_in_flight == 3


def test_rows_are_read_only_shortly_before_they_are_sent(server: Server) -> None:
    """A split of a million rows must not be in memory."""
    made = 0

    def texts() -> Iterator[str]:
        nonlocal made
        for text in TEXTS * 4:
            made += 1
            yield text

    seen: list[int] = []

    def reply(inputs: list[Any]) -> tuple[int, Any]:
        seen.append(made - 4 * len(server.asked))
        return 200, [{"label": "pos", "score": 1.0}] * len(inputs)

    server.reply = reply
    post_rows(endpoint_of(server), texts())
    assert max(seen) <= 4 * 3 * endpoint.REQUESTS_AHEAD_PER_WORKER


def test_a_temporary_failure_is_retried(server: Server) -> None:
    left = [503, 429]

    def reply(inputs: list[Any]) -> tuple[int, Any]:
        if left:
            return left.pop(), "busy"
        return 200, [{"label": "pos", "score": 0.5}] * len(inputs)

    server.reply = reply
    assert post_rows(endpoint_of(server), iter(["1"])).scores == [0.5]
    assert len(server.asked) == 3


def test_retry_after_is_bounded_by_the_timeout(server: Server) -> None:
    """An hour's `Retry-After` would hold a CI job for hours, without a word."""
    server.retry_after = "3600"
    server.reply = lambda inputs: (429, "busy")
    started = time.monotonic()
    with pytest.raises(UserError, match="status 429"):
        post_rows(endpoint_of(server, timeout=0.5, retries=1), iter(["1"]))
    assert len(server.asked) == 2 and time.monotonic() - started < 60


@pytest.mark.parametrize("status", [503, 404, 401])
def test_a_lasting_failure_is_reported_with_its_status(server: Server, status: int) -> None:
    server.reply = lambda inputs: (status, b"no\nsuch model")
    with pytest.raises(UserError, match=f"status {status}, 'no such model'"):
        post_rows(endpoint_of(server), iter(TEXTS))
    if status == 404:
        assert len(server.asked) <= 4 * 3, "a permanent error is not retried"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        [{"label": "pos", "score": 1.0}],
        [{"label": "pos"}] * 2,
        ["pos", "neg"],
        {"error": "loading"},
        [[], []],
        None,
    ],
)
def test_a_malformed_answer_is_refused(server: Server, body: Any) -> None:
    server.reply = lambda inputs: (200, body)
    with pytest.raises(UserError, match="it answered 2 rows with"):
        post_rows(endpoint_of(server), iter(["1", "2"]))


def test_the_likeliest_class_is_the_answer_where_all_are_listed(server: Server) -> None:
    both = [{"label": "neg", "score": 0.2}, {"label": "pos", "score": 0.8}]
    server.reply = lambda inputs: (200, [both] * len(inputs))
    answers = post_rows(endpoint_of(server), iter(["1"]))
    assert (answers.labels, answers.scores) == (["pos"], [0.8])


def test_a_token_is_sent_and_both_texts_of_a_pair_arrive(server: Server) -> None:
    server.reply = lambda inputs: (200, [{"label": row["text_pair"], "score": 1.0} for row in inputs])
    answers = post_rows(endpoint_of(server, token="secret"), iter([{"text": "a", "text_pair": "b"}]))
    assert answers.labels == ["b"]
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_token_that_the_endpoint_echoes_is_not_shown(server: Server) -> None:
    """Logs are read by more people than the token is for."""
    for status, body in ((401, {"error": "bad key sk-secret"}), (200, {"key": "sk-secret"})):
        server.reply = lambda inputs, status=status, body=body: (status, body)  # type: ignore[misc]
        with pytest.raises(UserError) as error:
            post_rows(endpoint_of(server, token="sk-secret"), iter(["1"]))
        assert "sk-secret" not in str(error.value) and "***" in str(error.value)


def test_a_timeout_is_reported_with_the_attempts(server: Server) -> None:
    def slow(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.5)
        return 200, []

    server.reply = slow
    with pytest.raises(UserError, match=r"no answer within 0\.05 s after 2 attempts"):
        post_rows(endpoint_of(server, timeout=0.05, retries=1), iter(["1"]))


def test_an_endpoint_that_cannot_be_reached_is_reported() -> None:
    with pytest.raises(UserError, match=r"cannot be reached\. "):
        post_rows(Endpoint("http://127.0.0.1:9/x", 1, 1, 1.0, 0), iter(["1"]))
    with pytest.raises(UserError, match="no-url"):
        post_rows(Endpoint("no-url", 1, 1, 1.0, 0), iter(["1"]))


def test_an_endpoint_is_evaluated_like_a_model(server: Server, sst2_dir: Path) -> None:
    """Seven of eight rows are right although answers overtake each other, and gates apply."""
    labels = {row["sentence"]: row["label"] for row in rows(1)}
    wrong = next(iter(labels))

    def reply(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.02 * (inputs[0] == wrong))
        answers = [labels[text] ^ (text == wrong) for text in inputs]
        return 200, [{"label": ("negative", "positive")[label], "score": 0.75} for label in answers]

    server.reply = reply
    options: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "endpoint_batch_size": 1}
    config = EvaluateConfig(endpoint=(server.url,), fail_under=("accuracy=0.9",), **options)
    measured = evaluate(config)
    (entry,) = measured.document()["models"]
    assert (entry["model"], entry["kind"]) == (server.url, "endpoint")
    assert entry["metrics"]["accuracy"] == 7 / 8 and entry["right"].count("0") == 1
    assert entry["metrics"]["ece"] == pytest.approx(7 / 8 - 0.75)
    assert entry["cost"]["rows_per_second"] > 0 and entry["cost"]["latency_p50_ms"] is None
    with pytest.raises(GateMissed, match=r"is under 0\.9"):
        check_gates(measured)
    (score,) = evaluate(EvaluateConfig(endpoint=(server.url,), concurrency=1, **options)).scores
    assert (score.value("latency_p50_ms") or 0) > 0, "requests are single rows and sequential"


def test_nothing_is_posted_before_max_length_is_checked(
    server: Server, sst2_dir: Path, bert_dir: Path
) -> None:
    config = EvaluateConfig(
        models=(str(bert_dir),), endpoint=(server.url,), dataset="sst2", data_dir=sst2_dir, max_length=4096
    )
    with pytest.raises(UserError, match="--max-length 4096 is more than the model reads"):
        evaluate(config)
    assert server.asked == []


class RawServer:
    """Answer every connection with bytes as they are given, some at a time."""

    def __init__(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/predict"
        self.pieces = pieces
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self.listener.accept()[0],), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.requests.append(connection.recv(1 << 16))
            for piece in self.pieces():
                connection.sendall(piece)


OK = b"HTTP/1.1 200 OK\r\n"


def drip(beginning: bytes, piece: bytes) -> Iterator[bytes]:
    yield beginning
    while True:
        time.sleep(0.02)
        yield piece


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"", b"x"),
        (OK, b"X-Header: 1\r\n"),
        (OK + b"\r\n[", b" "),
        (OK + b"Content-Length: 100000000\r\n\r\n[", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n", b"1\r\n \r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", b" "),
    ],
    ids=["status", "headers", "body", "length", "chunks", "chunk-size", "503"],
)
def test_a_slow_drip_ends_at_the_timeout(beginning: bytes, piece: bytes) -> None:
    """A timeout for each read never ends where a byte comes now and then: a CI job would hang."""
    server = RawServer(lambda: drip(beginning, piece))
    with pytest.raises(UserError, match=r"no answer within 0\.3 s after 2 attempts"):
        post_rows(Endpoint(server.url, 1, 1, 0.3, 1), iter(["1"]))
    server.listener.close()


def flood(status: bytes, headers: bytes, data: bytes) -> Iterator[bytes]:
    yield b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n"
    while True:
        yield data


@pytest.mark.parametrize("status", [b"200 OK", b"500 Oops", b"404 Not Found"])
@pytest.mark.parametrize("headers", [b"", b"Content-Encoding: gzip\r\n"], ids=["plain", "gzip"])
def test_a_body_without_end_is_not_read_to_its_end(
    status: bytes, headers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 GB were read into memory, and 1 MB of gzip became 4.5 GB."""
    monkeypatch.setattr(posting, "MAX_BODY_BYTES", 1 << 20)
    data = gzip.compress(bytes(1 << 24)) if headers else bytes(1 << 16)
    server = RawServer(lambda: flood(status, headers, data))
    tracemalloc.start()
    with pytest.raises(UserError, match="more than 1,048,576 bytes"):
        post_rows(Endpoint(server.url, 1, 1, 60.0, 0), iter(["1"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    server.listener.close()
    assert peak < 1 << 23


@pytest.mark.parametrize(
    ("status", "location"),
    [(307, "http://127.0.0.2:9/other"), (302, "/elsewhere"), (303, "/elsewhere"), (301, "https://x/")],
)
def test_a_redirect_that_changes_request_or_host_is_refused(status: int, location: str) -> None:
    """Texts and token must not go to a host that nobody named."""
    answer = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    server = RawServer(lambda: iter([answer]))
    with pytest.raises(UserError, match=r"it redirects to .*Give that URL"):
        post_rows(Endpoint(server.url, 1, 1, 5.0, 0, token="secret"), iter(["1"]))
    assert len(server.requests) == 1
    server.listener.close()


def test_a_redirect_within_a_host_is_followed_but_not_for_ever() -> None:
    body = b'[{"label": "pos", "score": 0.5}]'
    moved = b"HTTP/1.1 307 Moved\r\nLocation: /predict/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    answers = [moved, OK + b"Content-Length: %d\r\n\r\n" % len(body) + body]
    server = RawServer(lambda: iter([answers.pop(0) if len(answers) > 1 else answers[0]]))
    assert post_rows(Endpoint(server.url, 1, 1, 5.0, 0), iter(["1"])).scores == [0.5]
    assert [request.split()[1] for request in server.requests] == [b"/predict", b"/predict/"]
    server.pieces = lambda: iter([moved])
    with pytest.raises(UserError, match="redirects more than 5 times"):
        post_rows(Endpoint(server.url, 1, 1, 5.0, 0), iter(["1"]))
    server.listener.close()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'[{"label": "pos", "score": ' + b"9" * 5000 + b"}]",
        b"\xff\xfe",
        b"",
        b'["label score"]',
        b'[{"label": {"a": 1}, "score": 1.0}]',
        b'[{"label": "pos", "score": "high"}]',
        b'[{"label": "pos", "score": NaN}]',
        b'[{"label": "pos", "score": null}]',
        b'[{"label": "pos", "score": 1e999}]',
        b'[{"label": "pos", "score": [1]}]',
        b'[[{"label": "pos", "score": 1}, {"label": "neg", "score": "x"}]]',
        b'[{"label": "' + b"x" * 100_000 + b'", "score": 1.0}]',
        b'[{"label": ["pos"], "score": true}]',
    ],
)
def test_whatever_an_endpoint_answers_is_scored_or_refused_in_a_line(
    body: bytes, server: Server, sst2_dir: Path
) -> None:
    server.reply = lambda inputs: (200, body)
    options: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "endpoint_batch_size": 1}
    with pytest.raises(UserError, match="--endpoint") as error:
        evaluate(EvaluateConfig(endpoint=(server.url,), **options))
    assert len(str(error.value)) < 1000
