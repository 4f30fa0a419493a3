"""`Service`: from the body of a request to the bytes of its answer, within limits."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from distilkit.config import ServeConfig
from distilkit.data.texts import Texts
from distilkit.workflows.serving.batcher import BatcherClosed, QueueFull
from distilkit.workflows.serving.metrics import Metrics
from distilkit.workflows.serving.payloads import (
    PredictRequest,
    Refusal,
    make_texts,
    parse_request,
    render_answer,
    render_comparison,
)
from distilkit.workflows.serving.served import Served, TeacherFailure
from distilkit.workflows.serving.trial_page import render_page

Reply = TypeVar("Reply")

LOGGER = logging.getLogger(__name__)
LINGER_SECONDS = 5.0  # in which a body that is too large is read and thrown away

TEACHER_ROWS = "x-teacher-rows"  # header: which of the inputs the teacher answered, from 0
MAX_DIGITS = 20  # of a Content-Length: Python refuses to read some thousands of them


class Service:
    """Answer requests with a model. Neither texts nor the token are ever logged.

    Attributes:
        served: the model; it may be exchanged in the event loop.
        is_ready: whether new requests are welcome; not once the process is asked to stop.
    """

    def __init__(self, config: ServeConfig, served: Served, metrics: Metrics, *, token: str | None) -> None:
        self._config, self.served, self.metrics = config, served, metrics
        self._token = token.encode() if token else None
        self.is_ready = True

    @property
    def is_alive(self) -> bool:
        """Return whether requests can be answered at all."""
        return self.served.is_alive

    @property
    def has_token(self) -> bool:
        """Return whether requests must bring a token."""
        return self._token is not None

    @property
    def headers(self) -> Mapping[str, str]:
        """Return what every answer says: before the end, that this connection must not be used again."""
        return {} if self.is_ready else {"connection": "close"}

    async def predict(self, request: Request) -> Response:
        """Answer a request; whatever is wrong with it is a status and a reason."""
        return await self._handle(request, self._predict)

    async def compare(self, request: Request) -> Response:
        """Answer a request with what student and teacher each say; this counts as a request too."""
        return await self._handle(request, self._compare)

    async def show_page(self, request: Request) -> Response:
        """Return the page to try a text; it holds no answer, so it asks for no token."""
        content = render_page(
            self.served, has_token=self.has_token, max_characters=self._config.max_characters
        )
        return HTMLResponse(content, headers={**self.headers, "referrer-policy": "no-referrer"})

    async def _handle(
        self, request: Request, respond: Callable[[PredictRequest, Texts, Served], Awaitable[Response]]
    ) -> Response:
        started = time.perf_counter()
        self.metrics.count_request()
        try:
            self.check_token(request)
            parsed = parse_request(await self._read_body(request))
            served = self.served  # from here on the same, whatever is exchanged meanwhile
            texts = make_texts(
                parsed,
                max_items=self._config.max_items,
                max_characters=self._config.max_characters,
                wants_pairs=served.wants_pairs,
            )
            response = await respond(parsed, texts, served)
        except Refusal as refusal:
            return self.refuse(refusal)
        except ClientDisconnect:
            return self.refuse(Refusal(400, "disconnected", "The body ended early."))
        except Exception as error:
            # Neither its message nor its traceback: they may hold a text.
            LOGGER.error("a request failed: %s", type(error).__name__)
            return self.refuse(Refusal(500, "backend", "The model failed on this request."))
        self.metrics.count_success(time.perf_counter() - started, len(texts), is_batch=parsed.is_batch)
        return response

    async def _predict(self, parsed: PredictRequest, texts: Texts, served: Served) -> Response:
        answer = await self._wait(served.answer(texts))
        body = render_answer(parsed, answer.predictions)
        headers = dict(self.headers)
        if len(answer.teacher_rows):
            self.metrics.count_fallback(len(answer.teacher_rows))
            headers[TEACHER_ROWS] = ",".join(map(str, answer.teacher_rows))
        return Response(body, headers=headers, media_type="application/json")

    async def _compare(self, parsed: PredictRequest, texts: Texts, served: Served) -> Response:
        comparison = await self._wait(served.compare(texts))
        threshold = served.threshold.value if served.threshold else None
        body = render_comparison(parsed, comparison.student, comparison.teacher, threshold)
        return Response(body, headers=self.headers, media_type="application/json")

    async def _wait(self, reply: Awaitable[Reply]) -> Reply:
        """Wait for a model's answer.

        Raises:
            Refusal: 429 or 503.
        """
        timeout = self._config.timeout
        try:
            return await asyncio.wait_for(reply, timeout)
        except QueueFull as full:
            reason = "Too many texts wait already. Try again later."
            raise Refusal(429, "overloaded", reason, full.seconds) from None
        except BatcherClosed:
            raise Refusal(503, "unavailable", "The server is about to end.", 1) from None
        except TimeoutError:
            raise Refusal(503, "timeout", f"No answer within {timeout:g} s.", 1) from None
        except TeacherFailure as failure:
            LOGGER.error("the teacher failed: %s", failure)
            reason = "The model is unsure of this, and the teacher did not answer. Try again later."
            raise Refusal(503, "fallback", reason, 1) from None

    def check_token(self, request: Request) -> None:
        """Refuse a request that does not bring the token.

        Raises:
            Refusal: 401.
        """
        if self._token is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(token.strip().encode(), self._token):
            raise Refusal(401, "unauthorized", "Send the token: Authorization: Bearer TOKEN.")

    def refuse(self, refusal: Refusal) -> Response:
        """Count a refusal and return it as a response."""
        self.metrics.count_failure(refusal.kind)
        headers = dict(self.headers)
        if refusal.retry_after is not None:
            headers["retry-after"] = str(refusal.retry_after)
        if refusal.status == 401:
            headers["www-authenticate"] = "Bearer"
        document = {"error": refusal.reason, "error_type": refusal.kind}
        return JSONResponse(document, refusal.status, headers)

    async def _read_body(self, request: Request) -> bytes:
        """Read a body within its limits of size and time.

        Raises:
            Refusal: 408, 413 or 415.
        """
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise Refusal(415, "validation", "Send the body without a Content-Encoding.")
        limit, timeout = self._config.max_body_bytes, self._config.timeout
        declared = request.headers.get("content-length", "0")
        is_small = declared.isdecimal() and len(declared) < MAX_DIGITS and int(declared) <= limit
        body = bytearray()
        try:
            if is_small:
                async with asyncio.timeout(timeout):
                    async for chunk in request.stream():
                        body += chunk
                        if len(body) > limit:
                            break
                    else:
                        return bytes(body)
        except TimeoutError:
            raise Refusal(408, "timeout", f"The body did not arrive within {timeout:g} s.") from None
        if request.headers.get("expect", "").lower() != "100-continue":
            await _drop_rest(request)
        raise Refusal(413, "too_large", f"The body has more than {limit:,} bytes.")


async def _drop_rest(request: Request) -> None:
    """Read on for a while: a client that is cut off while it sends never sees the reason."""
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await request.receive()).get("more_body"):
                pass
