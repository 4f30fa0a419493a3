"""A classifier behind a URL: rows are posted, labels and scores come back, as with Hugging Face endpoints."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from distilkit.errors import UserError

BUSY = (408, 429, 500, 502, 503, 504)  # what may go better a moment later
FIRST_WAIT = 0.5  # seconds before a request is sent again, each time twice as many
AHEAD = 4  # requests a worker that are made before the first is answered: memory does not grow with rows


@dataclass(frozen=True)
class Endpoint:
    """Where rows are posted and how.

    Args:
        batch_size: rows a request.
        concurrency: requests at a time.
        timeout: seconds for one request, and the most that a server may ask to be left alone for.
        retries: how often one is sent again when the connection fails or the answer is one of `BUSY`.
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
    """The answers to the rows, in order, and the seconds that each request took until it was answered."""

    labels: list[Any]
    scores: list[Any]
    seconds: list[float]


def ask(
    endpoint: Endpoint,
    rows: Iterator[Any],
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> EndpointAnswers:
    """Post `{"inputs": [...]}` for all rows; each answer is a list with `{"label", "score"}` for each.

    An item that lists all classes is taken for the likeliest of them.

    Args:
        rows: texts, or for pairs `{"text", "text_pair"}`.
        advance: called with the number of finished rows.

    Raises:
        UserError: when the endpoint cannot be reached, goes on failing, or answers something else.
    """
    said = EndpointAnswers([], [], [])
    with requests.Session() as session, ThreadPoolExecutor(endpoint.concurrency) as pool:
        again = Retry(
            endpoint.retries,
            backoff_factor=FIRST_WAIT,
            status_forcelist=BUSY,
            allowed_methods=None,
            raise_on_status=False,
            retry_after_max=ceil(endpoint.timeout),  # what a server may ask for; else six hours
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=endpoint.concurrency, max_retries=again))
        if endpoint.token:
            session.headers["Authorization"] = f"Bearer {endpoint.token}"
        batches = iter(lambda: list(islice(rows, endpoint.batch_size)), [])
        while group := list(islice(batches, AHEAD * endpoint.concurrency)):
            for items, seconds in pool.map(partial(_post, session, endpoint), group):
                said.labels.extend(item["label"] for item in items)
                said.scores.extend(item["score"] for item in items)
                said.seconds.append(seconds)
                advance(len(said.labels))
    return said


def _post(session: requests.Session, endpoint: Endpoint, inputs: list[Any]) -> tuple[list[Any], float]:
    started = time.perf_counter()
    try:
        response = session.post(endpoint.url, json={"inputs": inputs}, timeout=endpoint.timeout)
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"--endpoint {endpoint.url}: {_reason(error, endpoint)}. Nothing was scored."
        ) from None
    if not response.ok:
        said = " ".join(response.text.split())[:200]
        raise UserError(
            f"--endpoint {endpoint.url}: status {response.status_code}, {said!r}. Nothing was scored."
        )
    return _items(endpoint, response, len(inputs)), time.perf_counter() - started


def _reason(error: Exception, endpoint: Endpoint) -> str:
    asked = "" if not endpoint.retries else f", asked {endpoint.retries + 1} times"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {endpoint.timeout:g} s{asked}"
    if isinstance(error, requests.ConnectionError):
        return f"it cannot be reached{asked}"
    return str(error)


def _items(endpoint: Endpoint, response: requests.Response, rows: int) -> list[Any]:
    try:
        found = response.json()
        found = [
            max(item, key=lambda one: one["score"]) if isinstance(item, list) else item for item in found
        ]
        if len(found) == rows and all({"label", "score"} <= set(item) for item in found):
            return found
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(
        f"--endpoint {endpoint.url}: to {rows} rows it answered {response.text[:200]!r}, "
        'not a list with {"label", "score"} for each.'
    )
