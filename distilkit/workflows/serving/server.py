"""`Server`: uvicorn on a socket, ended by signals without losing a request, and reloaded by SIGHUP."""

import asyncio
import errno
import os
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
from h11 import LocalProtocolError
from starlette.types import Message, Receive, Scope, Send

from distilkit.config import ServeConfig
from distilkit.errors import UserError
from distilkit.progress import SILENT, Reporter
from distilkit.stopping import REPEAT_SECONDS, SIGNALS
from distilkit.workflows.serving.served import Served
from distilkit.workflows.serving.service import Service

POLL_SECONDS = 0.01  # between two looks at whether a model is still in use
LOADING_SECONDS = 60.0  # that an end waits for a model that is being loaded
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


class RefusedRequests:
    """Run an application, and end quietly with requests that uvicorn has refused meanwhile.

    A request may turn out to be no HTTP after its head, when the application answers already. uvicorn has
    then sent 400 and closes the connection, and the answer fails with a traceback for each such request.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI 3 has it."""
        is_refused = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal is_refused
            try:
                if not is_refused:
                    await send(message)
            except LocalProtocolError:
                if message["type"] != "http.response.start":
                    raise
                is_refused = True

        await self._app(scope, receive, send_unless_refused)
        while is_refused and (await receive())["type"] != "http.disconnect":
            pass


class Server(uvicorn.Server):
    """Serve until a signal comes, then drain: /ready says no, what is accepted is answered, the process ends.

    After SIGTERM requests are still taken for some time, with `Connection: close`, because a load balancer
    needs a moment to learn of it; Ctrl-C does not wait. A second signal ends the server at once.

    SIGHUP loads the model again while the one before answers, then exchanges them: a request is answered by
    the model that it began with. Where loading fails the one before goes on. Only when the terminal that the
    server was started from is closed does SIGHUP end it.

    Args:
        announce: called once requests are taken.
        load: returns the model as it is on disk now; called in a thread.
        reporter: told what became of a reload.
    """

    def __init__(
        self,
        app: FastAPI,
        service: Service,
        config: ServeConfig,
        announce: Callable[[], None],
        load: Callable[[], Served] | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        settings = uvicorn.Config(
            RefusedRequests(app),
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
        self._timeout, self._load, self._reporter = config.timeout, load, reporter
        self._first_signal = self._closing = float("inf")
        self._wants_reload = False
        self._loader: threading.Thread | None = None
        self._loaded: Served | None = None
        self._terminal = Terminal()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to end."""
        if time.monotonic() >= self._closing:
            self.should_exit = True
        self._exchange()
        return await super().on_tick(counter)

    def request_reload(self) -> None:
        """Load the model again soon; while one is being loaded, once more after that."""
        self._wants_reload = True

    def _exchange(self) -> None:
        """Put a model that was loaded into service, and start to load one where that is asked for."""
        if self._loaded:
            old, self._service.served, self._loaded = self._service.served, self._loaded, None
            threading.Thread(target=self._retire, args=[old], daemon=True).start()
            self._reporter.note(f"{old.name} was loaded again and answers from now on")
        is_loading = self._loader is not None and self._loader.is_alive()
        if self._wants_reload and self._load and not is_loading and not self.should_exit:
            self._wants_reload = False
            self._loader = threading.Thread(target=self._load_again, args=[self._load], daemon=True)
            self._loader.start()

    def _load_again(self, load: Callable[[], Served]) -> None:
        try:
            served = load()
            served.__enter__()
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._reporter.warn(f"the model was not exchanged, and the one before goes on: {reason[:1000]}")
        else:
            self._loaded = served

    def _retire(self, served: Served) -> None:
        """End a model once the requests that began with it are answered."""
        deadline = time.monotonic() + self._timeout + 1
        while served.users and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        served.__exit__(None, None, None)

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

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Load the model again, or end where SIGHUP says that the terminal was closed."""
        if self._terminal.is_closed:
            self.handle_exit(sig, frame)
        else:
            self.request_reload()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals while the block runs; uvicorn would raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal_number: signal.getsignal(signal_number) for signal_number in SIGNALS}
        self._terminal = Terminal(ignored=handlers[signal.SIGHUP] is signal.SIG_IGN)
        for signal_number, handler in handlers.items():
            if signal_number == signal.SIGHUP:
                signal.signal(signal_number, self.handle_hangup)
            elif handler is not signal.SIG_IGN:
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
        try:
            with asyncio.Runner() as runner:
                runner.run(self.serve(sockets=[listener]))
        finally:
            if self._loader:  # an interpreter that ends must not meet a thread inside torch
                self._loader.join(LOADING_SECONDS)
            if self._loaded:
                self._loaded.__exit__(None, None, None)


class Terminal:
    """Tell a SIGHUP that was sent from one that says that the terminal was closed.

    Args:
        ignored: whether a closed terminal is to be ignored, as after `nohup`.
    """

    def __init__(self, *, ignored: bool = False) -> None:
        self._was_open = not ignored and self._can_open()

    @property
    def is_closed(self) -> bool:
        """Return whether there was a terminal and there is none any more."""
        return self._was_open and not self._can_open()

    @staticmethod
    def _can_open() -> bool:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True
