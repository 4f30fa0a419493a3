"""Post rows to a classifier behind a URL, and read labels and scores, in the format of Hugging Face."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypedDict

from distilkit.engine.inference.posting import Client, Server, open_client
from distilkit.errors import pluralize

# A bound on the requests in memory: a split of a million rows must not be read before it is sent.
REQUESTS_AHEAD_PER_WORKER = 4
MAX_LABEL_CHARACTERS = 500

Row = str | dict[str, str]


class Item(TypedDict):
    """Describe what an endpoint says of a class for a row."""

    label: str
    score: float


# The likeliest class of a row, or all of them.
Answer = Item | list[Item]


@dataclass(frozen=True)
class Endpoint:
    """Describe where and how rows are posted.

    Args:
        batch_size: rows per request.
        concurrency: requests at a time.
        timeout: seconds for a request and its whole answer, and the longest `Retry-After` that is obeyed.
        retries: how often a request is repeated after a failure that may pass.
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
    server = Server(
        "--endpoint",
        endpoint.url,
        endpoint.concurrency,
        endpoint.timeout,
        endpoint.retries,
        endpoint.token,
    )
    with open_client(server) as client, ThreadPoolExecutor(endpoint.concurrency) as pool:
        batches = iter(lambda: list(islice(rows, endpoint.batch_size)), [])
        while group := list(islice(batches, REQUESTS_AHEAD_PER_WORKER * endpoint.concurrency)):
            for batch_answers, seconds in pool.map(lambda batch: post_batch(client, batch), group):
                items = [likeliest(answer) for answer in batch_answers]
                answers.labels.extend(item["label"] for item in items)
                answers.scores.extend(item["score"] for item in items)
                answers.seconds.append(seconds)
                advance(len(answers.labels))
    return answers


def post_batch(client: Client, rows: list[Row]) -> tuple[list[Answer], float]:
    """Post some rows; return the answer to each, and the seconds that it took.

    Raises:
        UserError: as `post_rows`.
    """
    reply = client.post({"inputs": rows})
    return _parse_answers(client.server, reply.body, len(rows)), reply.seconds


def likeliest(answer: Answer) -> Item:
    """Return the class with the highest score."""
    return max(answer, key=lambda item: item["score"]) if isinstance(answer, list) else answer


def _is_item(item: Item) -> bool:
    """Return whether the endpoint answers as it should; what its figures are worth is checked later."""
    return {"label", "score"} <= set(item) and len(str(item["label"])) <= MAX_LABEL_CHARACTERS


def _parse_answers(server: Server, body: bytes, rows: int) -> list[Answer]:
    try:
        answers: list[Answer] = list(json.loads(body))
        if len(answers) == rows and all(_is_item(likeliest(answer)) for answer in answers):
            return answers
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    raise server.fail(
        f"it answered {pluralize(rows, 'row')} with {server.show(body)}, "
        'not with a list of {"label", "score"} per row.'
    )
