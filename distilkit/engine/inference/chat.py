"""The chat API of OpenAI, as vLLM, Ollama and LM Studio serve it: requests, and what answers hold."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from distilkit.engine.inference.class_answers import Step, Token

TOP_LOGPROBS = 20  # as many as the API gives
# A token is at least a byte, and a chat template adds some to a message.
TEMPLATE_TOKENS = 64
PLACEHOLDER = re.compile(r"\{(text|text_pair|labels)\}")


@dataclass(frozen=True)
class Usage:
    """Count the tokens of a request and of its answer."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class ChatAnswer:
    """Hold what a model answered.

    Attributes:
        steps: its tokens; empty where the server gives no log-probabilities.
        usage: `None` where the server does not say.
    """

    text: str
    steps: tuple[Step, ...]
    usage: Usage | None


def chat_url(url: str) -> str:
    """Return the URL that chats are posted to: of a server, of its API, or as it is."""
    base = url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return f"{base}{'' if urlsplit(base).path else '/v1'}/chat/completions"


def fill_prompt(template: str, row: Sequence[str], class_names: Sequence[str]) -> str:
    """Return a prompt with the text, or the two texts, of a row. Braces in texts stay as they are."""
    values = {"text": row[0], "text_pair": row[-1], "labels": ", ".join(class_names)}
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def make_request(prompt: str, model: str, max_tokens: int, vote: int | None) -> dict[str, Any]:
    """Return the body of a request.

    Args:
        vote: which sample, from 0, of a prompt that is asked several times; `None` for log-probabilities.
    """
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
    }
    if vote is None:
        return request | {"temperature": 0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return request | {"temperature": 1, "seed": vote}


def bound_usage(prompt: str, max_tokens: int) -> Usage:
    """Return the most tokens that a request can cost."""
    return Usage(len(prompt.encode("utf-8", "replace")) + TEMPLATE_TOKENS, max_tokens)


def is_answer(body: bytes) -> bool:
    """Return whether a body is an answer of this API."""
    return parse_answer(body) is not None


def parse_answer(body: bytes) -> ChatAnswer | None:
    """Return what an answer holds; `None` where it is none of this API."""
    try:
        document = json.loads(body)
        choice = document["choices"][0]
        text = choice["message"]["content"]
        logprobs = choice.get("logprobs") or {}
        steps = tuple(_parse_step(step) for step in logprobs.get("content") or ())
        usage = document.get("usage")
        counts = None
        if isinstance(usage, dict) and usage.get("prompt_tokens") is not None:
            counts = Usage(
                max(0, int(usage["prompt_tokens"])), max(0, int(usage.get("completion_tokens") or 0))
            )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        return None
    if text is not None and not isinstance(text, str):
        return None
    return ChatAnswer(text or "", steps, counts)


def _parse_step(step: dict[str, Any]) -> Step:
    return Step(_parse_token(step), tuple(_parse_token(token) for token in step.get("top_logprobs") or ()))


def _parse_token(token: dict[str, Any]) -> Token:
    logprob = -math.inf if token["logprob"] is None else float(token["logprob"])
    return Token(str(token["token"]), -math.inf if math.isnan(logprob) else logprob)
