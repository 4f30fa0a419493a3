"""Post JSON to a server that may be slow, busy or hostile: within a time and a size, and again if need be."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from threading import Timer
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from distilkit.errors import UserError

RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)  # errors that may pass
FIRST_WAIT_SECONDS = 0.5  # before the first retry; doubled for each further one
MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 25  # decompressed; an answer has some hundred bytes a row
HIDDEN = "***"  # what messages show for the token


@dataclass(frozen=True)
class Server:
    """Describe where and how JSON is posted.

    Attributes:
        option: what gave the URL, for messages.
        concurrency: requests at a time.
        timeout: seconds for a request and its whole answer, and the longest `Retry-After` that is obeyed.
        retries: how often a request is repeated after a failed connection or one of `RETRIED_STATUSES`.
        token: sent as `Authorization: Bearer`, and shown in no message.
        consequence: the last sentence of messages.
    """

    option: str
    url: str
    concurrency: int
    timeout: float
    retries: int
    token: str | None = None
    consequence: str = "Nothing was scored."

    def fail(self, problem: str) -> UserError:
        """Return an error that names the server, without the token."""
        return UserError(f"{self.option} {self.url}: {self.hide(problem)}")

    def hide(self, text: str) -> str:
        """Return a text without the token, which a server may echo."""
        return text.replace(self.token, HIDDEN) if self.token else text

    def show(self, body: bytes) -> str:
        """Return the beginning of a body on one line, in quotes and without the token."""
        return repr(" ".join(self.hide(body[:5000].decode("utf-8", "replace")).split())[:200])


class Refusal(UserError):
    """A server's answer with a status that is no success.

    Attributes:
        status: the status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Reply(NamedTuple):
    """Hold the body of an answer, and how many seconds it took, retries included."""

    body: bytes
    seconds: float


class Client:
    """Post to one server from several threads."""

    def __init__(self, server: Server, session: requests.Session) -> None:
        self.server, self._session = server, session

    def post(
        self,
        payload: Any,
        *,
        accept: Callable[[bytes], bool] = lambda body: True,
        before: Callable[[bool], None] = lambda is_repeated: None,
    ) -> Reply:
        """Post JSON, again where that may help.

        Args:
            accept: whether a body is an answer; else it is treated as a failure that may pass.
            before: called before each attempt with whether it follows one without an answer.

        Raises:
            UserError: when the server cannot be reached or keeps failing; `Refusal` where it says so.
        """
        server, started = self.server, time.perf_counter()
        # It counts and waits here. Where that is left to requests, bodies of failures are read unbounded.
        retry = Retry(
            server.retries,
            backoff_factor=FIRST_WAIT_SECONDS,
            retry_after_max=ceil(server.timeout),  # urllib3's default would wait up to six hours
        )
        was_lost = False
        for attempt in range(server.retries + 1):
            before(was_lost)
            may_retry = attempt < server.retries
            deadline = time.monotonic() + server.timeout
            try:
                answer = _post_once(self._session, server, payload, deadline)
            except (requests.RequestException, HTTPError, ValueError, OSError) as problem:
                # What is closed at the deadline ends like a connection that breaks.
                error = requests.Timeout() if time.monotonic() >= deadline else problem
                if not may_retry or isinstance(error, ValueError):  # such as a URL that is none
                    raise server.fail(f"{_describe_failure(error, server)}. {server.consequence}") from None
                retry = retry.increment("POST", server.url)
                retry.sleep()
                was_lost = True
                continue
            may_pass = answer.status in RETRIED_STATUSES or (answer.is_success and not accept(answer.body))
            if may_pass and may_retry:
                retry = retry.increment("POST", server.url)
                retry.sleep(answer.response.raw)
                was_lost = answer.is_success
                continue
            break
        if not answer.is_success:
            problem_text = f"status {answer.status}, {server.show(answer.body)}. {server.consequence}"
            raise Refusal(str(server.fail(problem_text)), answer.status)
        return Reply(answer.body, time.perf_counter() - started)


@contextmanager
def open_client(server: Server) -> Iterator[Client]:
    """Provide a client whose connections are closed at the end."""
    with requests.Session() as session:
        adapter = HTTPAdapter(pool_maxsize=server.concurrency)
        adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        if server.token:
            session.auth = _Bearer(server.token)  # a header would give way to one of ~/.netrc
        yield Client(server, session)


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


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
    def is_success(self) -> bool:
        """Return whether the status says that the request was answered."""
        return 200 <= self.status < 300


def _post_once(session: requests.Session, server: Server, payload: Any, deadline: float) -> _Answer:
    """Post JSON, follow redirects that keep the request as it is, and read the body.

    Raises:
        requests.RequestException: or another error of the connection.
        UserError: on any other redirect, and on a body that is too large.
    """
    url = server.url
    for _ in range(MAX_REDIRECTS + 1):
        with session.post(
            url, json=payload, timeout=server.timeout, stream=True, allow_redirects=False
        ) as response:
            if not response.is_redirect:
                return _Answer(response.status_code, _read_body(server, response, deadline), response)
            target = urljoin(url, response.headers["location"])
        # Others turn the request into another, and another host must not get the texts and the token.
        if response.status_code not in (307, 308) or urlsplit(target)[:2] != urlsplit(url)[:2]:
            raise server.fail(f"it redirects to {target[:300]}. Give that URL if you trust it.")
        url = target
    raise server.fail(f"it redirects more than {MAX_REDIRECTS} times.")


def _read_body(server: Server, response: requests.Response, deadline: float) -> bytes:
    """Read the body, decompressed, within the time and the size that there are for it."""
    body = bytearray()
    with _closing_late(deadline - time.monotonic(), partial(_shut_down_reading, response)):
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise server.fail(f"it answers with more than {MAX_BODY_BYTES:,} bytes. {server.consequence}")
            if time.monotonic() >= deadline:
                break
    if time.monotonic() >= deadline:
        raise requests.Timeout
    return bytes(body)


def _shut_down_reading(response: requests.Response) -> None:
    with suppress(OSError, ValueError, RuntimeError):  # it may have ended by itself
        response.raw.shutdown()


def _describe_failure(error: Exception, server: Server) -> str:
    attempts = f" after {server.retries + 1} attempts" if server.retries else ""
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {server.timeout:g} s{attempts}"
    if isinstance(error, requests.ConnectionError):
        return f"it cannot be reached{attempts}"
    return str(error)
