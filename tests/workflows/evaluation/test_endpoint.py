"""Answers from a URL come in the rows' order, whatever it takes, and anything odd is told and not scored."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import rows

from distilkit import EvaluateConfig, GateMissed, evaluate
from distilkit.errors import UserError
from distilkit.workflows.evaluation import endpoint as module
from distilkit.workflows.evaluation.endpoint import Endpoint, post_rows
from distilkit.workflows.evaluation.gates import check_gates

Reply = Callable[[list[Any]], tuple[int, Any]]


class Server:
    """A classifier on the loopback: `reply` gets the inputs, and says status and body."""

    def __init__(self) -> None:
        self.reply: Reply = lambda inputs: (
            200,
            [{"label": "pos", "score": float(text) / 100} for text in inputs],
        )
        self.asked: list[list[Any]] = []
        self.headers: list[dict[str, str]] = []
        self.spare_core_used = self.most_at_once = 0
        self.retry_after: str | None = None
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
                with server._lock:
                    server.asked.append(inputs)
                    server.headers.append(dict(self.headers))
                    server.spare_core_used += 1
                    server.most_at_once = max(server.most_at_once, server.spare_core_used)
                status, body = server.reply(inputs)
                with server._lock:
                    server.spare_core_used -= 1
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
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)


def of(server: Server, **changes: Any) -> Endpoint:
    known: dict[str, Any] = {"batch_size": 4, "concurrency": 3, "timeout": 5.0, "retries": 2}
    return Endpoint(server.url, **(known | changes))


TEXTS = [str(number) for number in range(50)]


def test_answers_come_in_the_order_of_the_rows(server: Server) -> None:
    """Requests overtake each other; answers that do are other rows' answers."""

    def slow_first(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.05 if "0" in inputs else 0)
        return 200, [{"label": "pos", "score": float(text) / 100} for text in inputs]

    server.reply = slow_first
    done: list[int] = []
    said = post_rows(of(server), iter(TEXTS), advance=done.append)
    assert said.scores == [number / 100 for number in range(50)]
    assert said.labels == ["pos"] * 50
    assert len(said.seconds) == len(server.asked) == 13
    assert sorted(text for batch in server.asked for text in batch) == sorted(TEXTS)
    assert done == sorted(done) and done[-1] == 50


def test_as_many_requests_are_under_way_as_were_asked_for(server: Server) -> None:
    def slow(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.02)
        return 200, [{"label": "pos", "score": 1.0}] * len(inputs)

    server.reply = slow
    post_rows(of(server, batch_size=1, concurrency=3), iter(TEXTS[:20]))
    assert server.most_at_once == 3


def test_rows_are_not_made_long_before_they_are_sent(server: Server) -> None:
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
    post_rows(of(server), texts())
    assert max(seen) <= 4 * 3 * module.REQUESTS_AHEAD_PER_WORKER


def test_what_fails_for_a_moment_is_sent_again(server: Server) -> None:
    left = [503, 429]

    def reply(inputs: list[Any]) -> tuple[int, Any]:
        if left:
            return left.pop(), "busy"
        return 200, [{"label": "pos", "score": 0.5}] * len(inputs)

    server.reply = reply
    assert post_rows(of(server), iter(["1"])).scores == [0.5]
    assert len(server.asked) == 3


def test_a_server_cannot_ask_for_more_patience_than_was_given(server: Server) -> None:
    """An hour's `Retry-After` would hold a CI job for hours, without a word."""
    server.retry_after = "3600"
    server.reply = lambda inputs: (429, "busy")
    started = time.monotonic()
    with pytest.raises(UserError, match="status 429"):
        post_rows(of(server, timeout=0.5, retries=1), iter(["1"]))
    assert len(server.asked) == 2 and time.monotonic() - started < 60


@pytest.mark.parametrize("status", [503, 404, 401])
def test_what_goes_on_failing_is_told_with_its_status(server: Server, status: int) -> None:
    server.reply = lambda inputs: (status, b"no\nsuch model")
    with pytest.raises(UserError, match=f"status {status}, 'no such model'"):
        post_rows(of(server), iter(TEXTS))
    if status == 404:
        assert len(server.asked) <= 4 * 3, "what will not go better is not sent again"


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
def test_what_is_no_answer_to_the_rows_is_told(server: Server, body: Any) -> None:
    server.reply = lambda inputs: (200, body)
    with pytest.raises(UserError, match="it answered 2 rows with"):
        post_rows(of(server), iter(["1", "2"]))


def test_an_item_that_lists_all_classes_is_its_likeliest(server: Server) -> None:
    both = [{"label": "neg", "score": 0.2}, {"label": "pos", "score": 0.8}]
    server.reply = lambda inputs: (200, [both] * len(inputs))
    said = post_rows(of(server), iter(["1"]))
    assert (said.labels, said.scores) == (["pos"], [0.8])


def test_a_token_is_sent_and_pairs_arrive_whole(server: Server) -> None:
    server.reply = lambda inputs: (200, [{"label": one["text_pair"], "score": 1.0} for one in inputs])
    said = post_rows(of(server, token="secret"), iter([{"text": "a", "text_pair": "b"}]))
    assert said.labels == ["b"]
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_an_endpoint_that_does_not_answer_in_time_is_told(server: Server) -> None:
    def slow(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.5)
        return 200, []

    server.reply = slow
    with pytest.raises(UserError, match=r"no answer within 0\.05 s after 2 attempts"):
        post_rows(of(server, timeout=0.05, retries=1), iter(["1"]))


def test_an_endpoint_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"cannot be reached\. "):
        post_rows(Endpoint("http://127.0.0.1:9/x", 1, 1, 1.0, 0), iter(["1"]))
    with pytest.raises(UserError, match="no-url"):
        post_rows(Endpoint("no-url", 1, 1, 1.0, 0), iter(["1"]))


def test_an_endpoint_is_evaluated_as_a_model_is(server: Server, sst2_dir: Path) -> None:
    """Seven of eight rows right, in the rows' order though answers overtake each other; gates hold for it."""
    labels = {row["sentence"]: row["label"] for row in rows(1)}
    wrong = next(iter(labels))

    def reply(inputs: list[Any]) -> tuple[int, Any]:
        time.sleep(0.02 * (inputs[0] == wrong))
        right = [labels[text] ^ (text == wrong) for text in inputs]
        return 200, [{"label": ("negative", "positive")[one], "score": 0.75} for one in right]

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
    (one,) = evaluate(EvaluateConfig(endpoint=(server.url,), concurrency=1, **options)).scores
    assert (one.value("latency_p50_ms") or 0) > 0, "one row at a time, and none waits beside it"


def test_nothing_is_posted_before_the_models_are_known_to_read_so_many_tokens(
    server: Server, sst2_dir: Path, bert_dir: Path
) -> None:
    config = EvaluateConfig(
        models=(str(bert_dir),), endpoint=(server.url,), dataset="sst2", data_dir=sst2_dir, max_length=4096
    )
    with pytest.raises(UserError, match="--max-length 4096 is more than the model reads"):
        evaluate(config)
    assert server.asked == []
