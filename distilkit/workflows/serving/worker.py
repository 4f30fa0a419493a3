"""A process that answers requests on a socket until it is told to end."""

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from distilkit import load
from distilkit.config import ServeConfig
from distilkit.errors import pluralize
from distilkit.hardware.threads import using_threads
from distilkit.progress import Reporter
from distilkit.workflows.serving.app import make_app
from distilkit.workflows.serving.metrics import Counts, Metrics
from distilkit.workflows.serving.served import Served, prepare
from distilkit.workflows.serving.server import Server, explain_address
from distilkit.workflows.serving.service import Service
from distilkit.workflows.serving.teachers import Teacher, open_teacher


def run_worker(
    config: ServeConfig,
    listener: socket.socket,
    token: str | None,
    reporter: Reporter,
    announce: Callable[[str], None],
    *,
    metrics_folder: Path | None = None,
    use_server: Callable[[Server], None] = lambda server: None,
) -> Counts:
    """Answer requests until a signal ends that.

    Args:
        announce: called with what the model is, once requests are taken.
        metrics_folder: where several workers write what they count.
        use_server: called with the server before it starts.

    Raises:
        UserError: when a model cannot be used, or something listens on the address already.
    """
    metrics = Metrics(metrics_folder)
    with using_threads(config.threads), open_teacher(config, reporter) as teacher:
        load_again = partial(load_served, config, teacher, metrics, reporter)
        service = Service(config, load_again(), metrics, token=token)
        metrics.watch_queue(lambda: service.served.queued_rows)
        service.served.__enter__()
        line = f"{config.model}: {pluralize(len(service.served.class_names), 'class')}"
        app = make_app(service, config.model, has_token=token is not None)
        server = Server(app, service, config, partial(announce, line), load_again, reporter)
        use_server(server)
        try:
            server.serve_on(listener)
        except OSError as error:
            raise explain_address(error, config.host, config.port) from None
        finally:
            service.served.__exit__(None, None, None)
    return metrics.read_counts()


def load_served(config: ServeConfig, teacher: Teacher | None, metrics: Metrics, reporter: Reporter) -> Served:
    """Load the model as it is on disk now, and make it ready to answer.

    Raises:
        UserError: when it cannot be loaded, or its threshold cannot be chosen.
    """
    predictor = load(
        config.model, max_length=config.max_length, precision=config.precision, device=config.device
    )
    predictor.copy_weights()
    reporter.note_all(predictor.notes)
    return prepare(config, predictor, teacher, metrics, reporter)
