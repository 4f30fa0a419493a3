"""Options of `predict`."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from distilkit.config.data import DEVICE_HELP, Device, Precision
from distilkit.config.fields import Config, ModelName, OptionalPath, Strings, option, positional

OUTPUT_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
OnError = Literal["fail", "skip"]
RowFormat = Literal["jsonl", "csv", "tsv"]
STDIN = "-"


class PredictConfig(Config):
    """Classify texts, or the rows of files, with one model."""

    model: ModelName = positional(help="Run folder, model folder or Hub id.")
    inputs: Strings = positional((), help="Texts, or files of rows. Without any: stdin, a text per line.")
    text_column: str | None = option(
        None, panel="Data", help="Column with the text. (default: the one the run was trained on, else text)"
    )
    text_pair_column: str | None = option(
        None,
        panel="Data",
        help="Column with the second text of a pair. (default: the one the run was trained on, else none)",
    )
    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens; the rest is cut. (default: what a run was trained with, else 128)",
    )
    on_error: OnError = option(
        "fail",
        panel="Data",
        help="What a row without a text, or one that cannot be read, does. fail: stop. skip: leave it out.",
    )
    output: OptionalPath = option(
        None,
        panel="Output",
        short="-o",
        help="File for the rows with their answers: .csv, .tsv, .jsonl, .parquet; .txt for labels alone. "
        "(default: stdout)",
    )
    format: RowFormat | None = option(
        None, panel="Output", help="Format of the rows on stdout. (default: jsonl)"
    )
    scores: bool = option(False, panel="Output", help="Add the probability of every class: score_CLASS.")
    top_k: int | None = option(
        None,
        ge=2,
        panel="Output",
        help="Add the next best classes too, up to the K-th: top2_label, top2_score.",
    )
    threshold: float | None = option(
        None, ge=0, le=1, panel="Output", help="Leave the label of a row empty where its score is lower."
    )
    prefix: str | None = option(
        None, panel="Output", help="Put this before the names of added columns, such as predicted_."
    )
    resume: bool = option(
        False, panel="Output", help="Go on where the same command was stopped, if it was. Needs --output."
    )
    overwrite: bool = option(
        False, panel="Output", help="Replace --output if it is there, once the new file is complete."
    )
    threads: int | None = option(
        None, ge=1, panel="Speed", help="Cores that may compute. (default: those that torch takes)"
    )
    precision: Precision = option("auto", panel="Speed", help="Compute precision, as in train.")
    device: Device = option(None, panel="Speed", help=DEVICE_HELP)

    @model_validator(mode="after")
    def _fits_together(self) -> "PredictConfig":
        if self.output is not None:
            self._check_output(self.output)
        elif self.resume or self.overwrite:
            name = "--resume" if self.resume else "--overwrite"
            raise ValueError(f"{name} is for a file: add --output FILE, or leave it out")
        if self.resume and self.reads_stdin:
            raise ValueError("--resume needs input that can be read again: give a file instead of stdin")
        if STDIN in self.inputs and len(self.inputs) > 1:
            raise ValueError(f"{STDIN} is stdin: give it alone, or leave it out")
        return self

    def _check_output(self, output: Path) -> None:
        if output.suffix.lower() not in OUTPUT_ENDINGS:
            raise ValueError(f"--output {output}: its ending must be one of {', '.join(OUTPUT_ENDINGS)}")
        if self.format is not None:
            raise ValueError("--format is for rows on stdout; the ending of --output says its format")
        labels_only = output.suffix.lower() == ".txt"
        if labels_only and (self.scores or self.top_k or self.prefix):
            raise ValueError("--output FILE.txt holds labels alone: name a .csv or .jsonl file for more")

    @property
    def reads_stdin(self) -> bool:
        """Return whether the texts are the lines of stdin."""
        return self.inputs in ((), (STDIN,))

    @property
    def output_ending(self) -> str:
        """Return the ending that says in which format the rows are written."""
        return self.output.suffix.lower() if self.output else f".{self.format or 'jsonl'}"
