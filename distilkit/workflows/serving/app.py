"""The routes of the server, and their description in OpenAPI."""

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from distilkit import __version__
from distilkit.workflows.serving.metrics import CONTENT_TYPE
from distilkit.workflows.serving.payloads import (
    ClassScore,
    ComparisonAnswer,
    ErrorAnswer,
    PredictRequest,
    Refusal,
)
from distilkit.workflows.serving.service import Service

DESCRIPTION = """Classes of texts by descending probability, in the format of Hugging Face endpoints.

`{"inputs": "a text"}` is answered with a list of `{"label", "score"}`, and a list of inputs with such a list
for each. `["a", "b"]` is a batch of two texts; a pair is `{"text": "a", "text_pair": "b"}`."""
_SCHEMA = PredictRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_PARTS: dict[str, Any] = _SCHEMA.pop("$defs")
# FastAPI would read the body itself, without a bound on its size and its time.
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _SCHEMA,
                "example": {"inputs": ["a great film", "a dull film"], "parameters": {"top_k": 1}},
            }
        },
    }
}
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 408, 413, 415, 422, 429, 500, 503)
}


class App(FastAPI):
    """An application whose OpenAPI document describes the bodies that `Service` reads."""

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document = super().openapi()
        document["components"]["schemas"].update(_PARTS)
        return document


def make_app(service: Service, model: str, *, has_token: bool) -> App:
    """Return the application that answers with `service`.

    Args:
        model: what the page of documentation calls the model.
        has_token: whether that page says that requests need a token.
    """
    app = App(title=f"distilkit: {model}", description=DESCRIPTION, version=__version__, redoc_url=None)
    secured: Any = [Depends(HTTPBearer(auto_error=False))] if has_token else []

    async def predict(request: Request) -> Response:
        """Classify a text, a pair, or a list of them."""
        return await service.predict(request)

    for path in ("/", "/predict", "/invocations"):
        app.post(
            path,
            dependencies=secured,
            openapi_extra=BODY,
            response_model=list[ClassScore] | list[list[ClassScore]],
            responses=FAILURES,
        )(predict)

    @app.post(
        "/compare",
        dependencies=secured,
        openapi_extra=BODY,
        response_model=ComparisonAnswer,
        responses=FAILURES,
    )
    async def compare(request: Request) -> Response:
        """Return what the student and, with a fallback, the teacher each answer to the same inputs."""
        return await service.compare(request)

    @app.get("/", response_class=HTMLResponse)
    async def try_text(request: Request) -> Response:
        """Show a page to try a text."""
        return await service.show_page(request)

    @app.get("/health")
    async def health() -> Response:
        """Say whether the process can answer at all: 200, else 503."""
        return _say(service, is_well=service.is_alive)

    async def ready() -> Response:
        """Say whether new requests are welcome: 200, or 503 once the server is asked to stop."""
        return _say(service, is_well=service.is_alive and service.is_ready)

    for path in ("/ready", "/ping"):
        app.get(path)(ready)

    @app.get("/metrics", dependencies=secured, response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Return the metrics for Prometheus."""
        try:
            service.check_token(request)
        except Refusal as refusal:
            return service.refuse(refusal)
        return Response(service.metrics.render(), headers=service.headers, media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def explain(request: Request, error: HTTPException) -> Response:
        document = {"error": f"{error.detail}. See /docs.", "error_type": "validation"}
        return JSONResponse(document, error.status_code, error.headers)

    return app


def _say(service: Service, *, is_well: bool) -> Response:
    return JSONResponse(
        {"status": "ok" if is_well else "unavailable"}, 200 if is_well else 503, service.headers
    )
