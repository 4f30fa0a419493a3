"""`serve`: a model behind HTTP, its answers in the format of Hugging Face endpoints."""

import ipaddress
import os
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from distilkit.config import ServeConfig
from distilkit.errors import UserError
from distilkit.progress import SILENT, Reporter

SCHEMA = "distilkit.serving/1"
TOKEN_VARIABLE = "DISTILKIT_SERVE_TOKEN"
INSTALL = "serve needs FastAPI, uvicorn and prometheus-client: pip install 'distilkit[serve]'"


@dataclass(frozen=True)
class Serving:
    """Say what a server did from its start to its end."""

    model: str
    url: str
    requests: int
    answered: int
    refused: int
    texts: int
    fallback_texts: int
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
    from distilkit.workflows.serving.server import bind

    started = time.perf_counter()
    token = read_token()
    with bind(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if token is None and not ipaddress.ip_address(host).is_loopback:
            reporter.note(
                f"warning: {url} is open to other machines and asks for no token. Set {TOKEN_VARIABLE}."
            )
        workers = f" {config.workers} workers." if config.workers > 1 else ""

        def announce(line: str) -> None:
            reporter.note(f"{url} answers with {line}.{workers} Ctrl-C ends it.")

        if config.workers == 1:
            from distilkit.workflows.serving.worker import run_worker

            counts = run_worker(config, listener, token, reporter, announce)
        else:
            from distilkit.workflows.serving.supervisor import Supervisor

            counts = Supervisor(config, listener, token, reporter, announce).run()
    return Serving(
        model=config.model,
        url=url,
        **asdict(counts),
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
