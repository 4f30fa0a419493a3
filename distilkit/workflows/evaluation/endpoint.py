"""Post rows to a classifier behind a URL, and read labels and scores, in the format of Hugging Face."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil
from typing import TypedDict

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from distilkit.errors import UserError

RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)  # errors that may pass
FIRST_WAIT_SECONDS = 0.5  # before the first retry; doubled for each further one
# A bound on the requests in memory: a split of a million rows must not be read before it is sent.
REQUESTS_AHEAD_PER_WORKER = 4

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
        timeout: seconds for a request, and the longest `Retry-After` that is obeyed.
        retries: how often a request is repeated after a failed connection or one of `RETRIED_STATUSES`.
        token: sent as `Authorization: Bearer`.
    """

    url: str
    batch_size: int
    concurrency: int
    timeout: float
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
        retry = Retry(
            endpoint.retries,
            backoff_factor=FIRST_WAIT_SECONDS,
            status_forcelist=RETRIED_STATUSES,
            allowed_methods=None,
            raise_on_status=False,
            retry_after_max=ceil(endpoint.timeout),  # urllib3's default would wait up to six hours
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=endpoint.concurrency, max_retries=retry))
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


def _post(session: requests.Session, endpoint: Endpoint, inputs: list[Row]) -> tuple[list[Item], float]:
    started = time.perf_counter()
    try:
        response = session.post(endpoint.url, json={"inputs": inputs}, timeout=endpoint.timeout)
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"--endpoint {endpoint.url}: {_describe_failure(error, endpoint)}. Nothing was scored."
        ) from None
    if not response.ok:
        body = " ".join(response.text.split())[:200]
        raise UserError(
            f"--endpoint {endpoint.url}: status {response.status_code}, {body!r}. Nothing was scored."
        )
    return _parse_items(endpoint, response, len(inputs)), time.perf_counter() - started


def _describe_failure(error: Exception, endpoint: Endpoint) -> str:
    attempts = f" after {endpoint.retries + 1} attempts" if endpoint.retries else ""
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {endpoint.timeout:g} s{attempts}"
    if isinstance(error, requests.ConnectionError):
        return f"it cannot be reached{attempts}"
    return str(error)


def _parse_items(endpoint: Endpoint, response: requests.Response, rows: int) -> list[Item]:
    try:
        items: list[Item] = [
            max(item, key=lambda candidate: candidate["score"]) if isinstance(item, list) else item
            for item in response.json()
        ]
        if len(items) == rows and all({"label", "score"} <= set(item) for item in items):
            return items
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(
        f"--endpoint {endpoint.url}: it answered {rows} rows with {response.text[:200]!r}, "
        'not with a list of {"label", "score"} per row.'
    )
