"""`Server`: uvicorn on a socket, ended by signals without losing a request."""

import asyncio
import errno
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from types import FrameType

import uvicorn
from fastapi import FastAPI

from distilkit.config import ServeConfig
from distilkit.errors import UserError
from distilkit.stopping import REPEAT_SECONDS, SIGNALS
from distilkit.workflows.serving.service import Service

KEEP_ALIVE_SECONDS = 75  # longer than load balancers keep idle connections


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen yet.

    Raises:
        UserError: when the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no name of a host"
        raise UserError(f"--host {host:.200}: {reason}. Give an address of this machine.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise explain_address(error, host, port) from None
    return listener


def explain_address(error: OSError, host: str, port: int) -> UserError:
    """Return what to do where an address cannot be used."""
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"--port {port}: something listens there already, on {host}. Stop it, or give another port; "
            "--port 0 takes any free one."
        )
    if error.errno == errno.EACCES:
        return UserError(f"--port {port}: this user may not listen there. Give one from 1024 on.")
    return UserError(f"--host {host} --port {port}: {error.strerror}. Give an address of this machine.")


class Server(uvicorn.Server):
    """Serve until a signal comes, then drain: /ready says no, what is accepted is answered, the process ends.

    After SIGTERM requests are still taken for some time, with `Connection: close`, because a load balancer
    needs a moment to learn of it; Ctrl-C does not wait. A second signal ends the server at once.

    Args:
        announce: called once requests are taken.
    """

    def __init__(
        self, app: FastAPI, service: Service, config: ServeConfig, announce: Callable[[], None]
    ) -> None:
        settings = uvicorn.Config(
            app,
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=ceil(config.timeout) + 1,
        )
        super().__init__(settings)
        self._service, self._drain_seconds, self._announce = service, config.drain_seconds, announce
        self._first_signal = self._closing = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to end."""
        if time.monotonic() >= self._closing:
            self.should_exit = True
        return await super().on_tick(counter)

    def drain(self, seconds: float) -> None:
        """Take requests for so long, unready, then answer what was taken and end."""
        self._service.is_ready = False
        self._closing = time.monotonic() + seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, and end at once on another, unless it is a repetition."""
        now = time.monotonic()
        if self._first_signal > now:
            self._first_signal = now
            self.drain(self._drain_seconds if sig == signal.SIGTERM else 0)
        elif now - self._first_signal >= REPEAT_SECONDS:
            self.should_exit = self.force_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals while the block runs; uvicorn would raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal_number: signal.getsignal(signal_number) for signal_number in SIGNALS}
        for signal_number, handler in handlers.items():
            if handler is not signal.SIG_IGN:
                signal.signal(signal_number, self.handle_exit)
        try:
            yield
        finally:
            for signal_number, handler in handlers.items():
                signal.signal(signal_number, handler)

    def serve_on(self, listener: socket.socket) -> None:
        """Serve on a bound socket until the end.

        Raises:
            OSError: when another process listens there by now.
        """
        with asyncio.Runner() as runner:
            runner.run(self.serve(sockets=[listener]))
