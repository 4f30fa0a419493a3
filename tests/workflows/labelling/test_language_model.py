"""`label --llm`: a chat server that is slow, busy or broken is asked each row once, and no key is shown."""

import json
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Notes, write_jsonl
from processes import PIPE, WarmProcess

from distilkit import LabelConfig, label
from distilkit.data.teacher_files import read_teacher_file
from distilkit.engine.inference import posting
from distilkit.errors import UserError
from distilkit.runs.resumable import parts_folder
from distilkit.workflows.labelling import servers, workflow
from distilkit.workflows.labelling.responses import RESPONSES, digest_request

KEY = "sk-test-0123456789abcdef"
CLASSES = ("negative", "positive")
ROWS = 200

Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]


def logprobs_of(text: str, top: dict[str, float]) -> dict[str, Any]:
    """A single token and its alternatives, with their probabilities."""
    entries = [{"token": token, "logprob": math.log(value), "bytes": None} for token, value in top.items()]
    return {"content": [{"token": text, "logprob": math.log(top[text]), "top_logprobs": entries}]}


def chat(
    text: str, top: dict[str, float] | None = None, *, tokens: tuple[int, int] = (100, 2)
) -> dict[str, Any]:
    """A whole answer of the API."""
    return {
        "id": "chatcmpl-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": None if top is None else logprobs_of(text, top),
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


def number_of(prompt: str) -> int:
    return int(prompt.split("film ")[1].split()[0])


def usual(prompt: str, request: dict[str, Any]) -> tuple[int, Any]:
    """Odd films are positive, and more so the higher their number."""
    share = 0.5 + (number_of(prompt) + 1) / (2 * ROWS + 4)
    first, second = ("positive", "negative")[:: 1 if number_of(prompt) % 2 else -1]
    top = {first: share, f" {second.title()}": 1 - share - 1e-9}
    return 200, chat(first, top if request.get("logprobs") else None)


class Server:
    """A chat server on the loopback interface."""

    def __init__(self) -> None:
        self.reply: Reply = usual
        self.prompts: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.retry_after: str | None = None
        self.in_flight = self.max_in_flight = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = request["messages"][-1]["content"]
                with server._lock:
                    server.prompts.append(prompt)
                    server.requests.append(request)
                    server.paths.append(self.path)
                    server.headers.append(dict(self.headers))
                    server.in_flight += 1
                    server.max_in_flight = max(server.max_in_flight, server.in_flight)
                status, body = server.reply(prompt, request)
                with server._lock:
                    server.in_flight -= 1
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    if server.retry_after is not None:
                        self.send_header("Retry-After", server.retry_after)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # whoever asked was killed
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

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
def _setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(servers, "PIECE_ROWS", 64)
    monkeypatch.setenv("DISTILKIT_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    values = [{"text": f"film {i} {{labels}}", "label": CLASSES[i % 2], "id": i} for i in range(ROWS)]
    return write_jsonl(tmp_path / "films.jsonl", values)


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    file = tmp_path / "prompt.txt"
    file.write_text("Is this {labels}?\n{text}\n", encoding="utf-8")
    return file


@pytest.fixture
def options(server: Server, data: Path, prompt: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "data": str(data),
        "llm": server.url,
        "llm_model": "tiny",
        "prompt": prompt,
        "output": tmp_path / "answers.parquet",
        "concurrency": 4,
    }


def check_no_key(folder: Path, *messages: str) -> None:
    for file in folder.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    assert all(KEY not in message for message in messages)


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def test_log_probabilities_become_a_file_that_distill_detects(
    options: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    notes = Notes()
    result = label(LabelConfig(**options), notes)
    rows = rows_of(options["output"])
    assert [row["text"] for row in rows] == [f"film {i} {{labels}}" for i in range(ROWS)]
    assert set(rows[0]) == {"text", "logprob_negative", "logprob_positive"}
    for i, row in enumerate(rows):
        share = 0.5 + (i + 1) / (2 * ROWS + 4)
        likelier = row["logprob_positive" if i % 2 else "logprob_negative"]
        assert math.exp(likelier) == pytest.approx(share, abs=1e-6)
    teacher = read_teacher_file(str(options["output"]), ("text", None), CLASSES)
    assert teacher.kind == "log-probabilities" and len(teacher.texts) == ROWS
    assert Counter(server.prompts).most_common(1)[0][1] == 1 and len(server.prompts) == ROWS
    assert server.prompts and all(
        text.startswith("Is this negative, positive?\nfilm ") for text in server.prompts
    )
    assert all(text.endswith("{labels}") for text in server.prompts), "a text's own braces stay"
    assert set(server.paths) == {"/v1/chat/completions"} and server.max_in_flight <= 4
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert server.requests[0]["logprobs"] is True and server.requests[0]["temperature"] == 0
    assert result.requests == ROWS and result.tally.labels == {"negative": 100, "positive": 100}
    check_no_key(tmp_path, *notes.notes, json.dumps(result.document()))
    assert not parts_folder(options["output"]).exists()


def test_votes_are_counted_where_there_are_no_log_probabilities(
    options: dict[str, Any], server: Server
) -> None:
    server.reply = lambda prompt, request: (200, chat("positive" if request["seed"] < 3 else "Negative."))
    with pytest.raises(UserError, match=r"no log-probabilities.*--votes 5"):
        server_reply, server.reply = server.reply, lambda prompt, request: (200, chat("positive"))
        label(LabelConfig(**options))
    server.reply = server_reply
    server.prompts.clear()
    label(LabelConfig(**options, votes=5))
    rows = rows_of(options["output"])
    assert {(row["votes_negative"], row["votes_positive"]) for row in rows} == {(2, 3)}
    assert len(server.prompts) == 5 * ROWS and Counter(server.prompts).most_common(1)[0][1] == 5
    assert read_teacher_file(str(options["output"]), ("text", None), CLASSES).kind == "votes"


def test_an_answer_that_names_no_class_is_kept_unlabelled_and_counted(
    options: dict[str, Any], server: Server
) -> None:
    def reply(prompt: str, request: dict[str, Any]) -> tuple[int, Any]:
        if number_of(prompt) % 10 == 3:
            return 200, chat("happy", {"happy": 0.6, "positive": 0.4})
        if number_of(prompt) % 10 == 4:
            return 200, chat("I cannot say", {"I cannot say": 1.0})
        return usual(prompt, request)

    server.reply = reply
    notes = Notes()
    result = label(LabelConfig(**options), notes)
    rows = rows_of(options["output"])
    assert len(rows) == ROWS and result.tally.unlabelled == 40
    for i, row in enumerate(rows):
        assert (row["logprob_negative"] is None) == (row["logprob_positive"] is None) == (i % 10 in (3, 4))
    assert any("row 4: 'happy'" in line for line in notes.notes)
    teacher = read_teacher_file(str(options["output"]), ("text", None), CLASSES)
    assert len(teacher.texts) == 160


def test_a_list_of_tokens_that_is_cut_off_is_counted(options: dict[str, Any], server: Server) -> None:
    server.reply = lambda prompt, request: (
        200,
        chat("positive", {"positive": 0.9, "fine": 0.04, "good": 0.02}),
    )
    result = label(LabelConfig(**options))
    assert result.tally.truncated == ROWS
    row = rows_of(options["output"])[0]
    assert math.exp(row["logprob_negative"]) == pytest.approx(0.02 / 0.92)


def test_a_class_that_begins_like_another(options: dict[str, Any], server: Server) -> None:
    def reply(prompt: str, request: dict[str, Any]) -> tuple[int, Any]:
        name = ("pos", "positive", "neg")[number_of(prompt) % 3]
        return 200, chat(name, {name: 0.9, "neg" if name != "neg" else "pos": 0.1})

    server.reply = reply
    result = label(LabelConfig(**options, labels=("neg", "pos", "positive")))
    assert result.tally.labels == {"neg": 66, "pos": 67, "positive": 67}


def test_failures_that_pass_are_repeated_and_retry_after_is_bounded(
    options: dict[str, Any], server: Server
) -> None:
    seen: Counter[str] = Counter()
    failures: list[tuple[int, Any]] = [
        (429, {"error": "slow down"}),
        (500, b"oops"),
        (503, b""),
        (200, b"<html>garbage"),
        (200, {"choices": []}),
        (200, {"error": {"message": "loading"}}),
    ]

    def reply(prompt: str, request: dict[str, Any]) -> tuple[int, Any]:
        seen[prompt] += 1
        if number_of(prompt) % 30 == 0 and seen[prompt] == 1:
            return failures[number_of(prompt) // 30 % len(failures)]
        return usual(prompt, request)

    server.reply, server.retry_after = reply, "3600"
    started = time.monotonic()
    result = label(LabelConfig(**options, timeout=1.0))
    assert time.monotonic() - started < 120, "an hour was asked for"
    assert result.tally.unlabelled == 0 and len(rows_of(options["output"])) == ROWS
    assert result.requests == len(server.prompts) == ROWS + 7


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"error": f"Incorrect API key provided: {KEY}."}, r"status 401, .*provided: \*\*\*"),
        (404, {"error": f"no model for Bearer {KEY}"}, "status 404"),
        (500, f"x{' ' * 300}{'y' * 180} {KEY}".encode(), "status 500"),
        (429, {"key": KEY}, "status 429"),
        (200, f"<html>{KEY}".encode(), "is no answer of the chat API"),
        (200, {"choices": [{"message": {"content": 5}, "logprobs": {"content": [KEY]}}]}, "is no answer"),
    ],
)
def test_a_lasting_failure_is_one_error_without_the_key_and_resumable(
    options: dict[str, Any], server: Server, tmp_path: Path, status: int, body: Any, message: str
) -> None:
    """Servers echo keys, and logs are read by more people than the key is for."""
    server.reply = lambda prompt, request: (
        (status, body) if number_of(prompt) == 90 else usual(prompt, request)
    )
    notes = Notes()
    with pytest.raises(UserError, match=message) as error:
        label(LabelConfig(**options, retries=1), notes)
    assert len(str(error.value)) < 1000
    check_no_key(tmp_path, str(error.value), *notes.notes)
    finished = len(set(server.prompts)) - 1
    assert finished < ROWS - 20, "nothing is asked for once a request has failed"
    server.prompts.clear()
    server.reply = usual
    label(LabelConfig(**options, resume=True))
    assert len(server.prompts) == ROWS - finished
    assert [row["text"].split()[1] for row in rows_of(options["output"])] == list(map(str, range(ROWS)))


def test_a_row_that_the_server_refuses_can_be_left_unlabelled(
    options: dict[str, Any], server: Server
) -> None:
    server.reply = lambda prompt, request: (
        (400, {"error": "content filter"}) if number_of(prompt) == 7 else usual(prompt, request)
    )
    result = label(LabelConfig(**options, on_error="skip"))
    assert result.tally.unlabelled == 1 and rows_of(options["output"])[7]["logprob_positive"] is None


def test_an_echo_of_the_key_in_an_answer_is_not_saved(
    options: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    server.reply = lambda prompt, request: (
        (500, b"") if number_of(prompt) == 190 else (200, chat(f"{KEY} it is", {f"{KEY} it is": 1.0}))
    )
    notes = Notes()
    with pytest.raises(UserError):
        label(LabelConfig(**options, retries=0), notes)
    assert (parts_folder(options["output"]) / RESPONSES).stat().st_size
    check_no_key(tmp_path, *notes.notes)


def test_no_more_requests_are_sent_than_allowed(options: dict[str, Any], server: Server) -> None:
    with pytest.raises(UserError, match="--max-requests 50: so many were sent"):
        label(LabelConfig(**options, max_requests=50))
    assert len(server.prompts) == 50
    with pytest.raises(UserError, match="--max-requests 120"):
        label(LabelConfig(**options, max_requests=120, resume=True))
    assert len(server.prompts) == 120, "those of the earlier command count"
    label(LabelConfig(**options, resume=True))
    assert len(server.prompts) == ROWS == len(set(server.prompts))


def test_the_cost_limit_is_never_passed(options: dict[str, Any], server: Server) -> None:
    """A request that is on its way cannot be taken back: its cost is set apart before it is sent."""
    price = {"price_input": 1000.0, "price_output": 2000.0}  # 0.104 a request
    with pytest.raises(UserError, match=r"--max-cost 5: .* is spent") as error:
        label(LabelConfig(**options, **price, max_cost=5.0))
    assert "--resume" in str(error.value)
    assert 40 <= len(server.prompts) <= 48 and len(server.prompts) * 0.104 <= 5.0
    with pytest.raises(UserError, match="--max-cost 10"):
        label(LabelConfig(**options, **price, max_cost=10.0, resume=True))
    assert 85 <= len(server.prompts) <= 96
    result = label(LabelConfig(**options, **price, resume=True))
    assert result.cost == pytest.approx(0.104 * ROWS) and len(server.prompts) == ROWS


def test_a_cost_limit_with_the_prices_of_today_stops_and_does_not_hang(
    options: dict[str, Any], server: Server
) -> None:
    with pytest.raises(UserError, match=r"--max-cost 0\.002: .* is spent"):
        label(LabelConfig(**options, price_input=0.15, price_output=0.6, max_cost=0.002))
    assert 100 < len(server.prompts) <= 123  # 0.0000162 each


def test_a_dry_run_sends_nothing_and_says_what_it_would_cost(options: dict[str, Any], server: Server) -> None:
    plan = workflow.plan(LabelConfig(**options, votes=3, price_input=1.0, price_output=2.0, dry_run=True))
    assert plan.rows == ROWS and plan.requests == 3 * ROWS and plan.cost and plan.cost > 0
    assert plan.example == "Is this negative, positive?\nfilm 0 {labels}"
    assert not server.prompts and not options["output"].exists()


def test_parts_ask_for_different_rows_and_are_complete_together(
    options: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    options |= {"output": tmp_path / "parts"}
    missing = [label(LabelConfig(**options, part=f"{i}/3")).missing_parts for i in (2, 1, 3)]
    assert missing == [[1, 3], [3], []]
    assert len(server.prompts) == ROWS == len(set(server.prompts))
    texts = [row["text"] for file in sorted((tmp_path / "parts").iterdir()) for row in rows_of(file)]
    assert sorted(texts) == sorted(f"film {i} {{labels}}" for i in range(ROWS))


COMMAND = [sys.executable, "-c"]
SCRIPT = """
import sys
from distilkit.engine.inference import posting
from distilkit.workflows.labelling import servers
servers.PIECE_ROWS = 64
from distilkit.cli.app import main
main()
"""


def test_after_kills_no_finished_row_is_asked_again(
    options: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    """Answers cost money: what was answered and stored before a kill must not be asked for a second time."""

    def slow(prompt: str, request: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.01)
        return usual(prompt, request)

    server.reply = slow
    arguments = ["label", options["data"], "--llm", server.url, "--llm-model", "tiny", "--resume"]
    arguments += ["--prompt", str(options["prompt"]), "-o", str(options["output"]), "--concurrency", "4"]
    kept = parts_folder(options["output"]) / RESPONSES
    stored: set[str] = set()
    asked_before = 0
    for moment in (1, 30, 75, 140, 185):
        process = WarmProcess(["-c", SCRIPT, *arguments], stderr=PIPE)
        while len(set(server.prompts)) < moment and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        time.sleep(0.1)  # what was on its way has arrived
        again = {
            digest_request(request, CLASSES).hex() for request in server.requests[asked_before:]
        } & stored
        assert not again, f"{len(again)} finished rows were asked again before {moment}"
        asked_before = len(server.requests)
        stored = {json.loads(line)["key"] for line in kept.read_text().splitlines() if line.endswith("}}")}
    shown = subprocess.run([*COMMAND, SCRIPT, *arguments], capture_output=True, text=True, check=True)
    again = {digest_request(request, CLASSES).hex() for request in server.requests[asked_before:]} & stored
    assert not again
    assert len(server.prompts) <= ROWS + 5 * 4, "at most what was on its way at each kill"
    rows = rows_of(options["output"])
    assert [row["text"].split()[1] for row in rows] == list(map(str, range(ROWS)))
    check_no_key(tmp_path, shown.stdout, shown.stderr)
    whole = tmp_path / "whole.parquet"
    label(LabelConfig(**options | {"output": whole}))
    assert rows_of(whole) == rows


def test_a_key_that_no_header_can_have_is_refused_without_being_shown(
    options: dict[str, Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILKIT_API_KEY", f"{KEY}\nX-Header: 1")
    with pytest.raises(UserError, match="DISTILKIT_API_KEY holds a blank") as error:
        label(LabelConfig(**options))
    assert KEY not in str(error.value) and not server.prompts


def test_the_key_of_openai_is_used_where_there_is_no_other(
    options: dict[str, Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILKIT_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    label(LabelConfig(**options | {"llm": f"{server.url}/chat/completions"}))
    assert server.headers[0]["Authorization"] == "Bearer sk-openai" and set(server.paths) == {
        "/v1/chat/completions"
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "runs/x"}, "one teacher is needed, not --model and --llm"),
        ({"llm_model": None}, "--llm needs --llm-model"),
        ({"prompt": None}, "--llm needs --prompt"),
        ({"llm": "localhost:8000"}, "neither http:// nor https://"),
        ({"llm": f"http://user:{KEY}@127.0.0.1/v1"}, "would be printed and saved"),
        ({"max_cost": 3.0}, "--max-cost needs a price"),
        ({"labels": ("yes",)}, "two classes or more"),
        ({"labels": ("Yes", "no", "yes")}, "yes stands there twice"),
        ({"part": "4/3"}, "--part 4/3: write I/N"),
        ({"output": "answers.txt"}, "its ending must be one of"),
        ({"output": None}, "--output is missing"),
        ({"precision": "fp32"}, "--precision is of no use to --llm: it is for --model"),
        ({"endpoint_batch_size": 3}, "it is for --endpoint"),
        ({"part": "1/3", "output": "x.csv"}, "parts lie in a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        LabelConfig(**options | changes)
    text = str(error.value)
    assert message.replace("--", "") in text.replace("--", "").replace("_", "-") or message in text
    assert KEY not in text


def test_prompts_and_data_that_cannot_be_used_are_refused(
    options: dict[str, Any], prompt: Path, tmp_path: Path, server: Server
) -> None:
    prompt.write_text("Is it good?", encoding="utf-8")
    with pytest.raises(UserError, match=r"it has no \{text\}"):
        label(LabelConfig(**options))
    prompt.write_text("{text} {text_pair}", encoding="utf-8")
    with pytest.raises(UserError, match="--text-pair-column"):
        label(LabelConfig(**options))
    prompt.write_text("{text}", encoding="utf-8")
    texts = tmp_path / "texts.txt"
    texts.write_text("a film\n", encoding="utf-8")
    with pytest.raises(UserError, match="Name the classes with --labels"):
        label(LabelConfig(**options | {"data": str(texts)}))
    with pytest.raises(UserError, match="there is no such file"):
        label(LabelConfig(**options | {"data": "nothing.csv"}))
    assert not server.prompts
