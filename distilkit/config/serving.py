"""Options of `serve`."""

from pydantic import model_validator

from distilkit.config.data import DEVICE_HELP, Device, Precision
from distilkit.config.fields import Config, ModelName, option, positional


class ServeConfig(Config):
    """Answer texts over HTTP with one model."""

    model: ModelName = positional(help="Run folder, model folder, exported folder or Hub id.")
    host: str = option(
        "127.0.0.1", panel="Server", help="Address to listen on. 0.0.0.0: every IPv4 address of this machine."
    )
    port: int = option(8000, ge=0, le=65535, panel="Server", help="Port to listen on. 0: any free one.")
    drain_seconds: float = option(
        1.0,
        ge=0,
        le=3600,
        panel="Server",
        help="How long requests are still taken after SIGTERM, while /ready says 503.",
    )
    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens; the rest is cut. (default: what a run was trained with, else 128)",
    )
    max_body_bytes: int = option(1 << 22, ge=1, panel="Limits", help="Largest body of a request.")
    max_items: int = option(256, ge=1, panel="Limits", help="Texts, or pairs, that a request may hold.")
    max_characters: int = option(100_000, ge=1, panel="Limits", help="Longest text, or pair together.")
    queue_size: int = option(
        1024, ge=1, panel="Limits", help="Texts that may wait; a request that has no room gets 429."
    )
    timeout: float = option(
        30.0, gt=0, le=3600, panel="Limits", help="Seconds for a body to arrive, and for its answer."
    )
    batch_size: int = option(
        64, ge=1, panel="Speed", help="Texts of different requests that are answered together."
    )
    wait_ms: float = option(
        1.0, ge=0, le=1000, panel="Speed", help="Milliseconds that a text waits for others to join it."
    )
    threads: int | None = option(
        None, ge=1, panel="Speed", help="Cores that may compute. (default: those that torch takes)"
    )
    precision: Precision = option("auto", panel="Speed", help="Compute precision, as in train.")
    device: Device = option(None, panel="Speed", help=DEVICE_HELP)

    @model_validator(mode="after")
    def _fits_together(self) -> "ServeConfig":
        if self.max_items > self.queue_size:
            raise ValueError(
                f"--max-items {self.max_items} is more than --queue-size {self.queue_size}: such a request "
                "would never have room. Lower the first or raise the second"
            )
        return self
