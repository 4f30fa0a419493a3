"""What clients send and get: JSON in the format of Hugging Face endpoints."""

import json
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions
from distilkit.errors import pluralize

ITEM = 'a text, or {"text": …, "text_pair": …}'


class Refusal(Exception):
    """A request that is not answered, and why.

    Args:
        status: of HTTP.
        kind: counted in the metrics.
        retry_after: seconds until another attempt may succeed.
    """

    def __init__(self, status: int, kind: str, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.kind, self.reason, self.retry_after = status, kind, reason, retry_after


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class TextItem(_Part):
    """A text, or two that are compared."""

    text: str
    text_pair: str | None = None


def _as_integer(value: Any) -> Any:
    """Return 3 for 3.0: to JSON Schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Parameters(_Part):
    """Which of the answers are returned."""

    top_k: Annotated[int | None, BeforeValidator(_as_integer)] = Field(
        default=None, ge=1, description="So many of the likeliest classes."
    )
    threshold: float | None = Field(default=None, ge=0, le=1, description="Only classes at least so likely.")


class PredictRequest(_Part):
    """A text, a pair, or a list of them. `["a", "b"]` is two texts and not a pair."""

    inputs: str | TextItem | list[str | TextItem]
    parameters: Parameters | None = None

    @property
    def is_batch(self) -> bool:
        """Return whether the answer is a list for each text."""
        return isinstance(self.inputs, list)

    @property
    def items(self) -> list[TextItem]:
        """Return the texts or pairs."""
        items = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        return [TextItem.model_construct(text=item) if isinstance(item, str) else item for item in items]


class ClassScore(BaseModel):
    """A class and its probability."""

    label: str
    score: float


class ComparisonAnswer(BaseModel):
    """What student and teacher each answer; the student's counts where it is at least `threshold` sure."""

    student: list[ClassScore] | list[list[ClassScore]]
    teacher: list[ClassScore] | list[list[ClassScore]] | None
    threshold: float | None


class ErrorAnswer(BaseModel):
    """Why a request is not answered."""

    error: str
    error_type: str


def parse_request(body: bytes) -> PredictRequest:
    """Parse a body.

    Raises:
        Refusal: 400 where it is not JSON, 422 where it holds something else.
    """
    try:
        return PredictRequest.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
    if details[0]["type"] == "json_invalid":
        reason = details[0]["msg"].removeprefix("Invalid JSON: ")
        raise Refusal(400, "validation", f"The body is not JSON: {reason}.")
    raise Refusal(422, "validation", _describe(details))


def _describe(details: list[Any]) -> str:
    """Return the reason of the first problem; a union has one for each of its types."""
    detail = next((detail for detail in details if _index(detail) is not None), details[0])
    path = detail["loc"]
    if not path:
        return 'The body must be an object: {"inputs": …}.'
    if detail["type"] == "extra_forbidden" and path[0] != "inputs":
        return f"{'.'.join(map(str, path))[:100]} is unknown. Send inputs, and parameters: top_k, threshold."
    if path[0] == "inputs":
        index = _index(detail)
        if index is not None:
            return f"inputs[{index}] must be {ITEM}."
        return f"inputs must be {ITEM}, or a list of those."
    return f"{'.'.join(map(str, path))[:100]}: {detail['msg']}."


def _index(detail: Any) -> int | None:
    return next((part for part in detail["loc"] if isinstance(part, int)), None)


def make_texts(request: PredictRequest, *, max_items: int, max_characters: int, wants_pairs: bool) -> Texts:
    """Return the texts of a request.

    Raises:
        Refusal: 422 where there are none or too many, one is too long, or they do not suit the model.
    """
    items = request.items
    if not items:
        raise Refusal(422, "validation", "inputs is an empty list: send at least a text.")
    if len(items) > max_items:
        reason = f"inputs holds {len(items):,} items; at most {max_items:,} are answered at once."
        raise Refusal(422, "validation", reason)
    for index, item in enumerate(items):
        characters = len(item.text) + len(item.text_pair or "")
        if characters > max_characters:
            size = pluralize(characters, "character")
            reason = f"inputs[{index}] has {size}; at most {max_characters:,} are answered."
            raise Refusal(422, "validation", reason)
    pairs = [item.text_pair for item in items if item.text_pair is not None]
    if pairs and len(pairs) < len(items):
        raise Refusal(422, "validation", "Send text_pair with all inputs or with none.")
    if wants_pairs and not pairs:
        reason = 'This model compares two texts: send {"text": …, "text_pair": …}. A list is a batch.'
        raise Refusal(422, "validation", reason)
    return Texts([item.text for item in items], pairs or None)


def render_answer(request: PredictRequest, predictions: Predictions) -> bytes:
    """Return the classes of each text by descending probability: a list, or for a batch a list of lists.

    Classes below `threshold` are left out, those after the first `top_k`, and those without a probability.
    """
    return _render(list_scores(request, predictions))


def render_comparison(
    request: PredictRequest, student: Predictions, teacher: Predictions | None, threshold: float | None
) -> bytes:
    """Return what both models answer, each as `render_answer` does."""
    document = {
        "student": list_scores(request, student),
        "teacher": None if teacher is None else list_scores(request, teacher),
        "threshold": threshold,
    }
    return _render(document)


def list_scores(request: PredictRequest, predictions: Predictions) -> list[Any]:
    """Return the classes of each text as `render_answer` lists them."""
    parameters = request.parameters or Parameters()
    probabilities = predictions.probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : parameters.top_k]
    least = parameters.threshold or 0.0
    answers = [
        [
            {"label": predictions.class_names[class_id], "score": score}
            for class_id, score in zip(ids, row[ids].tolist(), strict=True)
            if score >= least
        ]
        for ids, row in zip(order, probabilities, strict=True)
    ]
    return answers if request.is_batch else answers[0]


def _render(answer: Any) -> bytes:
    return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
