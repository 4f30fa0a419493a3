"""Options of `serve`."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator

from distilkit.config.data import DEVICE_HELP, DataConfig, Dataset, Device, Precision
from distilkit.config.fields import (
    Config,
    ModelName,
    OptionalPath,
    field_infos,
    flag,
    option,
    positional,
)

AUTO = "auto"
FOR_AUTO = ("min_agreement", "dataset", "data_dir", "text_column", "text_pair_column")


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_threshold(value: str) -> str:
    try:
        fits = value == AUTO or 0 <= float(value) <= 1
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("use auto, or a probability between 0 and 1, such as 0.9")
    return value


Threshold = Annotated[str, BeforeValidator(_as_text), AfterValidator(_check_threshold)]


class ServeConfig(Config):
    """Answer texts over HTTP with one model."""

    model: ModelName = positional(help="Run folder, model folder, exported folder or Hub id.")
    host: str = option(
        "127.0.0.1", panel="Server", help="Address to listen on. 0.0.0.0: every IPv4 address of this machine."
    )
    port: int = option(8000, ge=0, le=65535, panel="Server", help="Port to listen on. 0: any free one.")
    fallback: ModelName | None = option(
        None,
        panel="Fallback",
        help="Teacher that answers what the student is unsure of: a run, a model, or an endpoint's URL.",
    )
    threshold: Threshold = option(
        AUTO,
        panel="Fallback",
        help="The student answers alone where its greatest probability is at least this. auto: so low that "
        "--min-agreement is still met, chosen on the validation rows.",
    )
    min_agreement: float = option(
        0.98,
        gt=0.5,
        lt=1,
        panel="Fallback",
        help="Share of all answers that are to be the teacher's, with 95 % confidence.",
    )
    dataset: Dataset | None = option(
        None,
        panel="Fallback",
        help="Known dataset whose validation rows choose the threshold. (default: the run's)",
    )
    data_dir: OptionalPath = option(
        None,
        panel="Fallback",
        help="Folder or file of rows that choose the threshold; they need no labels. (default: the run's)",
    )
    text_column: str | None = option(None, panel="Fallback", help="Column with the text. (default: text)")
    text_pair_column: str | None = option(
        None, panel="Fallback", help="Column with the second text of a pair. (default: none)"
    )
    workers: int = option(
        1,
        ge=1,
        le=256,
        panel="Server",
        help="Processes that answer on the port, each with a model and a queue of its own.",
    )
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
        None,
        ge=1,
        panel="Speed",
        help="Cores that a worker may compute on. (default: its share of all)",
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
        self._check_fallback()
        return self

    def _check_fallback(self) -> None:
        infos = field_infos(ServeConfig)
        changed = [name for name in ("threshold", *FOR_AUTO) if getattr(self, name) != infos[name].default]
        if not self.fallback and changed:
            raise ValueError(f"{flag(changed[0])} is for a fallback: add --fallback MODEL or URL")
        if self.fixed_threshold is not None and set(changed) - {"threshold"}:
            name = next(name for name in changed if name != "threshold")
            raise ValueError(f"{flag(name)} is for --threshold auto: leave one of them out")
        if not (self.dataset or self.data_dir) and (self.text_column or self.text_pair_column):
            raise ValueError("--text-column names a column of --data-dir: add that")

    @property
    def fixed_threshold(self) -> float | None:
        """Return the threshold; `None` where it is to be chosen."""
        return None if self.threshold == AUTO else float(self.threshold)

    @property
    def is_fallback_remote(self) -> bool:
        """Return whether the teacher is behind a URL."""
        return bool(self.fallback) and str(self.fallback).startswith(("http://", "https://"))

    @property
    def data(self) -> DataConfig | None:
        """Return where the rows that choose the threshold are; `None` where the run says so."""
        if not (self.dataset or self.data_dir):
            return None
        return DataConfig(
            dataset=self.dataset,
            data_dir=self.data_dir,
            text_column=self.text_column,
            text_pair_column=self.text_pair_column,
        )
