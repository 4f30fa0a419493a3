"""Post rows to a classifier behind a URL, and read labels and scores, in the format of Hugging Face."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil
from threading import Timer
from typing import Any, NamedTuple, TypedDict
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from distilkit.errors import UserError, pluralize

RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)  # errors that may pass
FIRST_WAIT_SECONDS = 0.5  # before the first retry; doubled for each further one
# A bound on the requests in memory: a split of a million rows must not be read before it is sent.
REQUESTS_AHEAD_PER_WORKER = 4
MAX_REDIRECTS = 5
MAX_LABEL_CHARACTERS = 500
CHUNK_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 25  # decompressed; an answer has some hundred bytes a row

Row = str | dict[str, str]


class Item(TypedDict):
    """Describe the answer to one row."""

    label: str
    score: float


@dataclass(frozen=True)
class Endpoint:
    """Describe where and how rows are posted.

    Args:
        batch_size: rows per request.
        concurrency: requests at a time.
        timeout: seconds for a request and its whole answer, and the longest `Retry-After` that is obeyed.
        retries: how often a request is repeated after a failed connection or one of `RETRIED_STATUSES`.
        token: sent as `Authorization: Bearer`.
    """

    url: str
    batch_size: int
    concurrency: int
    timeout: Any
    retries: int
    token: str | None = None


@dataclass(frozen=True)
class EndpointAnswers:
    """Hold the answers in the order of the rows, and the seconds that each request took."""

    labels: list[str]
    scores: list[float]
    seconds: list[float]


def post_rows(
    endpoint: Endpoint,
    rows: Iterator[Row],
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> EndpointAnswers:
    """Post `{"inputs": [...]}` for all rows, and read a list with `{"label", "score"}` per row.

    Where an item lists all classes, the likeliest of them is the answer.

    Args:
        rows: texts, or for pairs `{"text", "text_pair"}`.
        advance: called with the number of finished rows.

    Raises:
        UserError: when the endpoint cannot be reached, keeps failing, or answers in another format.
    """
    answers = EndpointAnswers([], [], [])
    with requests.Session() as session, ThreadPoolExecutor(endpoint.concurrency) as pool:
        adapter = HTTPAdapter(pool_maxsize=endpoint.concurrency)
        adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        if endpoint.token:
            session.headers["Authorization"] = f"Bearer {endpoint.token}"
        batches = iter(lambda: list(islice(rows, endpoint.batch_size)), [])
        while group := list(islice(batches, REQUESTS_AHEAD_PER_WORKER * endpoint.concurrency)):
            for items, seconds in pool.map(partial(_post, session, endpoint), group):
                answers.labels.extend(item["label"] for item in items)
                answers.scores.extend(item["score"] for item in items)
                answers.seconds.append(seconds)
                advance(len(answers.labels))
    return answers


class _DeadlineMixin:
    """Close the connection of a request whose headers are not there in time.

    The timeout of requests is for each read of the socket: a byte a second would keep it waiting for ever.
    """

    timeout: Any
    sock: Any

    def getresponse(self) -> Any:
        with _closing_late(self.timeout, partial(_shut_down, self.sock)):
            return super().getresponse()  # type: ignore[misc]


class _Connection(_DeadlineMixin, HTTPConnection):
    pass


class _TLSConnection(_DeadlineMixin, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


@contextmanager
def _closing_late(seconds: float, close: Callable[[], None]) -> Iterator[None]:
    """Call `close` when the block takes longer than that."""
    timer = Timer(max(0.0, seconds), close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # it may have ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _Answer(NamedTuple):
    """Hold a response whose body was read, with the response for its `Retry-After`."""

    status: int
    body: bytes
    response: requests.Response

    @property
    def text(self) -> str:
        """Return the beginning of the body on one line."""
        return " ".join(self.body[:2000].decode("utf-8", "replace").split())[:200]


def _post(session: requests.Session, endpoint: Endpoint, inputs: list[Row]) -> tuple[list[Item], float]:
    """Post some rows, again where that may help, and parse the answer."""
    started = time.perf_counter()
    # It counts and waits here. Where it is left to requests, the bodies of failures are read without a bound.
    retry = Retry(
        endpoint.retries,
        backoff_factor=FIRST_WAIT_SECONDS,
        retry_after_max=ceil(endpoint.timeout),  # urllib3's default would wait up to six hours
    )
    for attempt in range(endpoint.retries + 1):
        may_retry = attempt < endpoint.retries
        deadline = time.monotonic() + endpoint.timeout
        try:
            answer = _post_once(session, endpoint, inputs, deadline)
        except (requests.RequestException, HTTPError, ValueError, OSError) as problem:
            # What is closed at the deadline ends like a connection that breaks.
            error = requests.Timeout() if time.monotonic() >= deadline else problem
            if not may_retry or isinstance(error, ValueError):  # such as a URL that is none
                raise UserError(
                    f"--endpoint {endpoint.url}: {_describe_failure(error, endpoint)}. Nothing was scored."
                ) from None
            retry = retry.increment("POST", endpoint.url)
            retry.sleep()
            continue
        if answer.status in RETRIED_STATUSES and may_retry:
            retry = retry.increment("POST", endpoint.url)
            retry.sleep(answer.response.raw)
            continue
        break
    if not 200 <= answer.status < 300:
        raise UserError(
            f"--endpoint {endpoint.url}: status {answer.status}, {answer.text!r}. Nothing was scored."
        )
    return _parse_items(endpoint, answer, len(inputs)), time.perf_counter() - started


def _post_once(session: requests.Session, endpoint: Endpoint, inputs: list[Row], deadline: float) -> _Answer:
    """Post some rows, follow redirects that keep the request as it is, and read the body.

    Raises:
        requests.RequestException: or another error of the connection.
        UserError: on any other redirect, and on a body that is too large.
    """
    url = endpoint.url
    for _ in range(MAX_REDIRECTS + 1):
        with session.post(
            url, json={"inputs": inputs}, timeout=endpoint.timeout, stream=True, allow_redirects=False
        ) as response:
            if not response.is_redirect:
                return _Answer(response.status_code, _read_body(endpoint, response, deadline), response)
            target = urljoin(url, response.headers["location"])
        # Others turn the request into another, and another host must not get the texts and the token.
        if response.status_code not in (307, 308) or urlsplit(target)[:2] != urlsplit(url)[:2]:
            raise UserError(
                f"--endpoint {endpoint.url}: it redirects to {target[:300]}. Give that URL if you trust it."
            )
        url = target
    raise UserError(f"--endpoint {endpoint.url}: it redirects more than {MAX_REDIRECTS} times.")


def _read_body(endpoint: Endpoint, response: requests.Response, deadline: float) -> bytes:
    """Read the body, decompressed, within the time and the size that there are for it."""
    body = bytearray()
    with _closing_late(deadline - time.monotonic(), partial(_shut_down_reading, response)):
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise UserError(
                    f"--endpoint {endpoint.url}: it answers with more than {MAX_BODY_BYTES:,} bytes. "
                    "Nothing was scored."
                )
            if time.monotonic() >= deadline:
                break
    if time.monotonic() >= deadline:
        raise requests.Timeout
    return bytes(body)


def _shut_down_reading(response: requests.Response) -> None:
    with suppress(OSError, ValueError, RuntimeError):  # it may have ended by itself
        response.raw.shutdown()


def _describe_failure(error: Exception, endpoint: Endpoint) -> str:
    attempts = f" after {endpoint.retries + 1} attempts" if endpoint.retries else ""
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {endpoint.timeout:g} s{attempts}"
    if isinstance(error, requests.ConnectionError):
        return f"it cannot be reached{attempts}"
    return str(error)


def _is_item(item: Item) -> bool:
    """Return whether the endpoint answers as it should; what its figures are worth is checked later."""
    return {"label", "score"} <= set(item) and len(str(item["label"])) <= MAX_LABEL_CHARACTERS


def _parse_items(endpoint: Endpoint, answer: _Answer, rows: int) -> list[Item]:
    try:
        items: list[Item] = [
            max(item, key=lambda candidate: candidate["score"]) if isinstance(item, list) else item
            for item in json.loads(answer.body)
        ]
        if len(items) == rows and all(_is_item(item) for item in items):
            return items
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    raise UserError(
        f"--endpoint {endpoint.url}: it answered {pluralize(rows, 'row')} with {answer.text!r}, "
        'not with a list of {"label", "score"} per row.'
    )
