"""Rows and a server's answers, block by block: several requests at a time, and none of them twice."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from distilkit.config.labelling import LabelConfig
from distilkit.data.labels import list_classes, sort_names
from distilkit.data.row_inputs import Inputs, Position
from distilkit.data.streams import Piece
from distilkit.engine.inference.chat import (
    ChatAnswer,
    Usage,
    bound_usage,
    chat_url,
    fill_prompt,
    is_answer,
    make_request,
    parse_answer,
)
from distilkit.engine.inference.class_answers import class_logprobs, name_class
from distilkit.engine.inference.endpoint import Answer, Row, likeliest, post_batch
from distilkit.engine.inference.posting import Client, Refusal, Server
from distilkit.errors import UserError
from distilkit.progress import Reporter
from distilkit.workflows.labelling.blocks import Block, class_columns, keep_texts, take_part
from distilkit.workflows.labelling.budget import Budget, Prices, Stopped
from distilkit.workflows.labelling.inputs import read_pieces
from distilkit.workflows.labelling.responses import ResponseCache, digest_request
from distilkit.workflows.labelling.tally import TASK, Tally

Task = TypeVar("Task")
Result = TypeVar("Result")

PIECE_ROWS = 256  # of a part: their answers are written together
KEY_VARIABLES = ("DISTILKIT_API_KEY", "OPENAI_API_KEY")
ENDPOINT_KEY_VARIABLES = ("DISTILKIT_ENDPOINT_TOKEN",)
UNREADABLE = 422
REFUSED_ROWS = (400, 413, UNREADABLE)  # statuses that say something of a row, and not of the server
MAX_SHOWN_ANSWERS = 5
SHOWN_CHARACTERS = 80
CONSEQUENCE = "Finished rows are kept."


def describe_server(config: LabelConfig) -> Server:
    """Return where and how requests are sent, with the key that the environment has.

    Raises:
        UserError: where no request could carry the key.
    """
    variables = KEY_VARIABLES if config.llm else ENDPOINT_KEY_VARIABLES
    variable = next((name for name in variables if os.environ.get(name, "").strip()), None)
    token = os.environ[variable].strip() if variable else None
    if token and not all("!" <= character <= "~" for character in token):
        raise UserError(
            f"{variable} holds a blank or a character that is not ASCII. Set it to the key alone."
        )
    return Server(
        "--llm" if config.llm else "--endpoint",
        chat_url(config.llm) if config.llm else str(config.endpoint),
        config.concurrency,
        config.timeout,
        config.retries,
        token,
        CONSEQUENCE,
    )


def _run_all(
    ask: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    advance: Callable[[int], None],
    stop: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Return what all tasks answer, in their order.

    After a failure `stop` is called, no waiting task is begun, and those that are under way are finished.
    """
    results: list[Result] = []
    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[Result]] = [pool.submit(ask, task) for task in tasks]
        try:
            for done, future in enumerate(futures, start=1):
                results.append(future.result())
                advance(done)
        except BaseException as error:
            stop()
            for future in futures:
                future.cancel()
            if isinstance(error, Stopped):  # a later task failed, and says why
                wait(futures)
                errors = [future.exception() for future in futures if not future.cancelled()]
                raise next(e for e in errors if e and not isinstance(e, Stopped)) from None
            raise
    return results


def read_own_pieces(config: LabelConfig, inputs: Inputs, tally: Tally) -> Iterator[tuple[Position, Piece]]:
    """Yield the rows that this part labels, after those that are counted already."""
    part = config.part_of
    rows = PIECE_ROWS * (part.total if part else 1)
    for position, piece in read_pieces(config, inputs, rows, Position(tally.source, tally.row)):
        yield position, take_part(keep_texts(piece, inputs.columns), part)


# --- an endpoint ----------------------------------------------------------------------------------------


def label_with_endpoint(
    config: LabelConfig,
    client: Client,
    cache: ResponseCache,
    inputs: Inputs,
    tally: Tally,
    reporter: Reporter,
) -> Iterator[Block]:
    """Yield the rows after those that are counted already, with an endpoint's answers.

    Raises:
        UserError: where the endpoint fails, or does not answer all rows alike.
    """

    def ask(rows: list[Row]) -> None:
        answers, seconds = post_batch(client, rows)
        for row, answer in zip(rows, answers, strict=True):
            stored = json.loads(client.server.hide(json.dumps(answer)))
            cache.add(digest_request(config.endpoint, row), stored, {"requests": 1, "seconds": seconds})

    total, size = inputs.count() // (config.part_of or (1, 1))[1], config.endpoint_batch_size
    for position, piece in read_own_pieces(config, inputs, tally):
        rows = [as_row(texts) for texts in piece.texts.rows()]
        new = list({digest_request(row): row for row in rows if _cached(cache, config, row) is None}.values())
        batches = [new[start : start + size] for start in range(0, len(new), size)]

        def advance(done: int, before: int = tally.rows) -> None:
            reporter.advance(TASK, before + done * size, max(total, before + done * size + 1))

        _run_all(ask, batches, config.concurrency, advance)
        answers = [_cached(cache, config, row) for row in rows]
        yield _make_endpoint_block(position, piece, answers, tally, client.server)


def as_row(texts: Sequence[str]) -> Row:
    """Return a text, or two, as an endpoint takes them."""
    return texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]}


def _cached(cache: ResponseCache, config: LabelConfig, row: Row) -> Any:
    return cache.get(digest_request(config.endpoint, row))


def _make_endpoint_block(
    position: Position, piece: Piece, answers: Sequence[Answer], tally: Tally, server: Server
) -> Block:
    """Return rows with the probabilities of all classes, or a label and its score where it has no more."""
    labels = [str(likeliest(answer)["label"]) for answer in answers]
    if answers and tally.layout is None:
        first = answers[0]
        tally.layout = []
        if isinstance(first, list) and len(first) > 1:
            tally.layout = sort_names(str(item["label"]) for item in first)
    if not tally.layout:
        scores = [float(likeliest(answer)["score"]) for answer in answers]
        columns = {"label": pa.array(labels, pa.string()), "score": pa.array(scores, pa.float64())}
        return Block(position, piece, columns, labels)
    class_names = tally.layout
    shape = len(answers), len(class_names)
    values, is_given = np.zeros(shape), np.zeros(shape, bool)
    for row, answer in enumerate(answers):
        for item in answer if isinstance(answer, list) else [answer]:
            if str(item["label"]) not in class_names:
                raise server.fail(
                    f"row {piece.row_numbers[row]:,}: it answers with the class {str(item['label'])[:80]!r}, "
                    f"and before it had {list_classes(class_names)}."
                )
            column = class_names.index(str(item["label"]))
            values[row, column], is_given[row, column] = float(item["score"]), True
    return Block(position, piece, class_columns("prob", class_names, values, is_given, pa.float64()), labels)


# --- a language model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LanguageModel:
    """Ask a language model for the class of a text, within a budget."""

    config: LabelConfig
    class_names: tuple[str, ...]
    template: str
    client: Client
    cache: ResponseCache
    budget: Budget
    prices: Prices

    def ask(self, row: Sequence[str], vote: int | None) -> dict[str, Any] | None:
        """Return what the model says of a row: `class`, `logprobs`, `is_truncated` and the `text`.

        `None` where the server refuses the row, and such rows are not to stop the command.

        Raises:
            UserError: where the server fails, gives no log-probabilities, or the budget is spent.
        """
        prompt = fill_prompt(self.template, row, self.class_names)
        request = make_request(prompt, str(self.config.llm_model), self.config.max_tokens, vote)
        key = digest_request(request, self.class_names)
        if (stored := self.cache.get(key)) is not None:
            return dict(stored)
        try:
            answer, spent = self._post(request, bound_usage(prompt, self.config.max_tokens))
        except Refusal as refusal:
            if refusal.status in REFUSED_ROWS and self.config.on_error == "skip":
                return None
            self.budget.stop()
            raise
        except BaseException:
            self.budget.stop()
            raise
        response = self._read(answer, vote)
        self.cache.add(key, response, spent)
        return response

    def _post(self, request: dict[str, Any], bound: Usage) -> tuple[ChatAnswer, dict[str, Any]]:
        bound_cost, attempts = self.prices.cost(bound), 0

        def before(was_lost: bool) -> None:
            nonlocal attempts
            if attempts:
                self.budget.repeat(bound_cost, was_lost)
            attempts += 1

        self.budget.reserve(bound_cost)
        usage = Usage(0, 0)
        try:
            reply = self.client.post(request, accept=is_answer, before=before)
            answer = parse_answer(reply.body)
            usage = bound if answer is None or answer.usage is None else answer.usage
        finally:
            self.budget.settle(bound_cost, self.prices.cost(usage))
        if answer is None:
            server = self.client.server
            problem = f"{server.show(reply.body)} is no answer of the chat API. {CONSEQUENCE}"
            raise Refusal(str(server.fail(problem)), UNREADABLE)
        return answer, {"requests": attempts, "usage": [usage.input_tokens, usage.output_tokens]}

    def _read(self, answer: ChatAnswer, vote: int | None) -> dict[str, Any]:
        shown = self.client.server.hide(answer.text)[: 2 * SHOWN_CHARACTERS]
        class_id = name_class(answer.text, self.class_names)
        response: dict[str, Any] = {"class": class_id, "text": shown}
        if vote is not None:
            return response
        if not answer.steps:
            self.budget.stop()
            raise self.client.server.fail(
                "it gives no log-probabilities. Count its answers instead, such as with --votes 5."
            )
        if class_id is None:
            return response
        logprobs = class_logprobs(answer.steps, answer.text, self.class_names)
        return response | {"logprobs": logprobs.values, "is_truncated": logprobs.is_truncated}


def label_with_llm(model: LanguageModel, inputs: Inputs, tally: Tally, reporter: Reporter) -> Iterator[Block]:
    """Yield the rows after those that are counted already, with a language model's answers.

    Raises:
        UserError: as `LanguageModel.ask`.
    """
    config = model.config
    votes: Sequence[int | None] = range(config.votes) if config.votes else [None]
    total = inputs.count() // (config.part_of or (1, 1))[1]
    shown = 0
    for position, piece in read_own_pieces(config, inputs, tally):
        tasks = list({(row, vote): None for row in piece.texts.rows() for vote in votes})

        def advance(done: int, before: int = tally.rows) -> None:
            rows = before + done // len(votes)
            reporter.advance(TASK, rows, max(total, rows + 1), _describe_cost(model))

        responses = _run_all(
            lambda task: model.ask(*task), tasks, config.concurrency, advance, model.budget.stop
        )
        answers = dict(zip(tasks, responses, strict=True))
        rows = [[answers[row, vote] for vote in votes] for row in piece.texts.rows()]
        block = _make_llm_block(position, piece, rows, model)
        tally.truncated += sum(bool(row[0] and row[0].get("is_truncated")) for row in rows)
        for row_number, label, row in zip(piece.row_numbers, block.labels, rows, strict=True):
            if label is None and shown < MAX_SHOWN_ANSWERS:
                shown += 1
                reporter.note(f"unlabelled: row {row_number:,}: {_show_answers(row)}")
        yield block


def _describe_cost(model: LanguageModel) -> str:
    return f"{model.budget.requests:,} requests" + f", {model.budget.cost:.4g}" * bool(model.budget.cost)


def _show_answers(answers: Sequence[dict[str, Any] | None]) -> str:
    texts = dict.fromkeys("(refused)" if answer is None else answer["text"] for answer in answers)
    return ", ".join(repr(text[:SHOWN_CHARACTERS]) for text in list(texts)[:3])


def _make_llm_block(
    position: Position,
    piece: Piece,
    rows: Sequence[Sequence[dict[str, Any] | None]],
    model: LanguageModel,
) -> Block:
    """Return rows with log-probabilities, or with votes: null where no answer names a class."""
    shape = len(rows), len(model.class_names)
    values, is_given = np.zeros(shape), np.zeros(shape, bool)
    for i, answers in enumerate(rows):
        for answer in answers:
            if answer is None or answer["class"] is None:
                continue
            is_given[i] = True
            if "logprobs" in answer:
                values[i] = answer["logprobs"]
            else:
                values[i, answer["class"]] += 1
    prefix, type_ = ("votes", pa.int64()) if model.config.votes else ("logprob", pa.float64())
    if model.config.votes:
        values = values.astype(np.int64)
    labels = [
        model.class_names[int(row.argmax())] if labelled.any() else None
        for row, labelled in zip(values, is_given, strict=True)
    ]
    columns = class_columns(prefix, model.class_names, values, is_given, type_)
    return Block(position, piece, columns, labels)
