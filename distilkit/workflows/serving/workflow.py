"""`serve`: a model behind HTTP, its answers in the format of Hugging Face endpoints."""

import ipaddress
import os
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from distilkit import load
from distilkit.config import ServeConfig
from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions, Predictor
from distilkit.errors import UserError, pluralize
from distilkit.hardware.threads import using_threads
from distilkit.progress import SILENT, Reporter

SCHEMA = "distilkit.serving/1"
TOKEN_VARIABLE = "DISTILKIT_SERVE_TOKEN"
INSTALL = "serve needs FastAPI, uvicorn and prometheus-client: pip install 'distilkit[serve]'"
WARM_UP = ("a text", "a text of some more words than the first")


@dataclass(frozen=True)
class Serving:
    """Say what a server did from its start to its end."""

    model: str
    url: str
    requests: int
    answered: int
    refused: int
    texts: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document."""
        return {"schema": SCHEMA, **asdict(self)}


def serve(config: ServeConfig, reporter: Reporter = SILENT) -> Serving:
    """Answer requests until SIGTERM or Ctrl-C, and all that were accepted before that.

    Raises:
        UserError: when the address or the model cannot be used, or the extra `serve` is missing.
    """
    if not all(map(find_spec, ("fastapi", "uvicorn", "prometheus_client"))):
        raise UserError(INSTALL)
    from distilkit.workflows.serving.app import make_app
    from distilkit.workflows.serving.batcher import Batcher
    from distilkit.workflows.serving.metrics import Metrics
    from distilkit.workflows.serving.server import Server, bind, explain_address
    from distilkit.workflows.serving.service import Service

    started = time.perf_counter()
    token = read_token()
    with bind(config.host, config.port) as listener, using_threads(config.threads):
        predictor = load(
            config.model, max_length=config.max_length, precision=config.precision, device=config.device
        )
        reporter.note_all(predictor.notes)
        wants_pairs = warm_up(predictor)
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if token is None and not ipaddress.ip_address(host).is_loopback:
            reporter.note(
                f"warning: {url} is open to other machines and asks for no token. Set {TOKEN_VARIABLE}."
            )

        def predict(texts: Texts) -> Predictions:
            return predictor.predict(texts.first, texts.second)

        metrics = Metrics()
        with Batcher(
            predict,
            batch_size=config.batch_size,
            wait_seconds=config.wait_ms / 1000,
            queue_size=config.queue_size,
            observe=metrics.observe_batch,
        ) as batcher:
            metrics.watch_queue(batcher)
            service = Service(config, batcher, metrics, wants_pairs=wants_pairs, token=token)
            app = make_app(service, config.model, has_token=token is not None)
            line = f"{url} answers with {config.model}: {pluralize(len(predictor.class_names), 'class')}. "
            server = Server(app, service, config, lambda: reporter.note(line + "Ctrl-C ends it."))
            try:
                server.serve_on(listener)
            except OSError as error:
                raise explain_address(error, config.host, port) from None
    return Serving(
        model=config.model,
        url=url,
        requests=metrics.read_count("te_request_count"),
        answered=metrics.read_count("te_request_success"),
        refused=metrics.read_count("te_request_failure"),
        texts=metrics.read_count("te_predict_count"),
        seconds=round(time.perf_counter() - started, 3),
    )


def read_token() -> str | None:
    """Return the token that requests must bring, or none.

    Raises:
        UserError: when it is empty, which would let in everyone, or not what a header can hold.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    if not token.isascii() or not token.isprintable() or token.split() != [token]:
        raise UserError(
            f"{TOKEN_VARIABLE} must be letters, digits and signs of ASCII without spaces, and is not. "
            "Give another, or unset it."
        )
    return token


def warm_up(predictor: Predictor) -> bool:
    """Answer some texts, so that the first request is no slower; return whether the model wants pairs.

    Raises:
        UserError: when the model cannot answer.
    """
    try:
        predictor.predict(WARM_UP)
        return False
    except UserError:
        predictor.predict(WARM_UP, WARM_UP)  # it compares two texts, or fails again
        return True
