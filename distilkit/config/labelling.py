"""Options of `label`."""

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import model_validator

from distilkit.config.data import DEVICE_HELP, Device, Precision
from distilkit.config.fields import (
    Config,
    ModelName,
    OptionalPath,
    Strings,
    field_infos,
    flag,
    option,
    positional,
)
from distilkit.config.prediction import OnError

LABEL_ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl")
# Options that only some teachers have a use for.
OF_MODEL = ("max_length", "threads", "precision", "device")
OF_SERVER = ("concurrency", "timeout", "retries", "dry_run")
OF_ENDPOINT = ("endpoint_batch_size",)
OF_LLM = (
    *("llm_model", "prompt", "labels", "label_column", "votes", "max_tokens"),
    *("max_requests", "max_cost", "price_input", "price_output"),
)


class Part(NamedTuple):
    """Part `ordinal`, from 1, of `total`."""

    ordinal: int
    total: int


class LabelConfig(Config):
    """Write what a teacher says of the rows of files, for `distill --teacher-file`."""

    data: Strings = positional(
        help="Files of rows (.parquet, .csv, .tsv, .jsonl, .txt …), or a folder with a training split."
    )
    model: ModelName | None = option(
        None, panel="Model", short="-m", basic=True, help="Teacher: a run, a model folder or a Hub id."
    )
    endpoint: str | None = option(
        None, panel="Model", basic=True, help="Teacher: a classifier behind a URL, as in evaluate."
    )
    llm: str | None = option(
        None,
        panel="Model",
        basic=True,
        help="Teacher: a language model behind the URL of a chat API, as OpenAI, vLLM and Ollama have it.",
    )
    llm_model: str | None = option(
        None, panel="Model", basic=True, help="Name of the model that --llm is asked for."
    )
    prompt: OptionalPath = option(
        None,
        panel="Model",
        basic=True,
        help="File of the prompt for --llm: {text} stands for the text, {text_pair} and {labels} for those.",
    )
    labels: Strings = option(
        (),
        panel="Model",
        basic=True,
        help="Classes that --llm may name, such as negative,positive. (default: those of --label-column)",
    )
    votes: int | None = option(
        None,
        ge=1,
        panel="Model",
        help="Ask --llm N times a row and count its answers. (default: once, for its log-probabilities)",
    )
    max_tokens: int = option(16, ge=1, panel="Model", help="Longest answer of --llm in tokens.")
    text_column: str | None = option(
        None,
        panel="Data",
        basic=True,
        help="Column with the text. (default: the one the run was trained on, else text)",
    )
    text_pair_column: str | None = option(
        None,
        panel="Data",
        help="Column with the second text of a pair. (default: the one the run was trained on, else none)",
    )
    label_column: str = option("label", panel="Data", help="Column with the classes that --llm may name.")
    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens; the rest is cut. (default: what a run was trained with, else 128)",
    )
    on_error: OnError = option(
        "fail",
        panel="Data",
        help="What a bad row does. fail: stop. skip: leave it out, or unlabelled where a server refuses it.",
    )
    output: OptionalPath = option(
        None,
        panel="Output",
        short="-o",
        basic=True,
        help="File for texts and targets: .parquet, .csv, .tsv or .jsonl; with --part or Spark a folder.",
    )
    engine: Literal["local", "spark"] = option(
        "local",
        panel="Output",
        help="What computes --model. local: this process. spark: the executors of a Spark session.",
    )
    part: str | None = option(
        None,
        panel="Output",
        basic=True,
        help="I/N: label part I of N only. The parts may run at once, and lie in one folder.",
    )
    resume: bool = option(
        False, panel="Output", basic=True, help="Go on where the same command was stopped, if it was."
    )
    overwrite: bool = option(
        False, panel="Output", help="Replace --output if it is there, once the new file is complete."
    )
    dry_run: bool = option(
        False,
        panel="Output",
        basic=True,
        help="Send nothing: say how many requests there would be and what they cost, and show the first.",
    )
    max_requests: int | None = option(
        None, ge=1, panel="Gates", help="Stop before more requests to --llm than this."
    )
    max_cost: float | None = option(
        None, gt=0, panel="Gates", help="Stop before the answers of --llm cost more than this. Needs a price."
    )
    price_input: float | None = option(
        None, ge=0, panel="Gates", help="Price of a million tokens that --llm reads."
    )
    price_output: float | None = option(
        None, ge=0, panel="Gates", help="Price of a million tokens that --llm writes."
    )
    concurrency: int = option(8, ge=1, panel="Speed", help="Requests to a server at a time.")
    timeout: float = option(60.0, gt=0, panel="Speed", help="Seconds a server has for a request.")
    retries: int = option(5, ge=0, panel="Speed", help="How often a failed request is sent again.")
    endpoint_batch_size: int = option(16, ge=1, panel="Speed", help="Rows a request to --endpoint.")
    threads: int | None = option(
        None, ge=1, panel="Speed", help="Cores that may compute. (default: those that torch takes)"
    )
    precision: Precision = option("auto", panel="Speed", help="Compute precision, as in train.")
    device: Device = option(None, panel="Speed", help=DEVICE_HELP)

    @model_validator(mode="after")
    def _fits_together(self) -> "LabelConfig":
        if not self.data:
            raise ValueError("there is nothing to label: name a file of rows, or a folder")
        self._check_teacher()
        if self.llm:
            self._check_llm()
        if self.engine == "spark":
            self._check_spark()
        if self.part is not None and self.part_of is None:
            raise ValueError(f"--part {self.part}: write I/N, such as 1/3, with I from 1 to N")
        if self.output is None and not self.dry_run:
            raise ValueError("--output is missing: name the file, or with --part the folder, that is written")
        if self.output is not None:
            self._check_output()
        return self

    def _check_teacher(self) -> None:
        teachers = [name for name in ("model", "endpoint", "llm") if getattr(self, name)]
        if len(teachers) != 1:
            which = " and ".join(map(flag, teachers)) or "none"
            raise ValueError(f"one teacher is needed, not {which}: give --model, --endpoint or --llm")
        teacher = teachers[0]
        useful = {"model": OF_MODEL, "endpoint": (*OF_SERVER, *OF_ENDPOINT), "llm": (*OF_SERVER, *OF_LLM)}
        infos = field_infos(LabelConfig)
        for name in (*OF_MODEL, *OF_SERVER, *OF_ENDPOINT, *OF_LLM):
            if name not in useful[teacher] and getattr(self, name) != infos[name].default:
                right = [flag(key) for key, names in useful.items() if name in names]
                raise ValueError(
                    f"{flag(name)} is of no use to {flag(teacher)}: it is for {' and '.join(right)}"
                )
        if teacher != "model":
            _check_url(flag(teacher), getattr(self, teacher))

    def _check_spark(self) -> None:
        if not self.model:
            raise ValueError("--engine spark needs --model: servers are asked from here alone")
        reasons = {
            "part": "Spark shares the rows among its executors itself",
            "resume": "Spark runs a task again that failed, and keeps nothing of a job that failed",
            "threads": "a task computes on the cores that spark.task.cpus gives it",
        }
        for name, reason in reasons.items():
            if getattr(self, name):
                raise ValueError(f"{flag(name)} does not go with --engine spark: {reason}. Leave it out")
        if self.on_error == "skip":
            raise ValueError("--on-error skip does not go with --engine spark: mend the rows, or label here")

    def _check_llm(self) -> None:
        for name in ("llm_model", "prompt"):
            if not getattr(self, name):
                raise ValueError(f"--llm needs {flag(name)}: {field_infos(LabelConfig)[name].description}")
        if self.max_cost is not None and not self.has_prices:
            raise ValueError("--max-cost needs a price: --price-input and --price-output, per million tokens")
        names = [name.casefold() for name in self.class_names]
        if names and len(names) < 2:
            raise ValueError(f"--labels {self.labels[0]}: two classes or more are needed, such as no,yes")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--labels: {repeated[0]} stands there twice, letter case apart: drop one")

    def _check_output(self) -> None:
        assert self.output is not None
        ending, part = self.output.suffix.lower(), self.part_of
        if self.engine == "spark":
            if ending in LABEL_ENDINGS:
                raise ValueError(f"--output {self.output}: Spark writes a folder. Name it without an ending")
            return
        if part is None and ending not in LABEL_ENDINGS:
            raise ValueError(f"--output {self.output}: its ending must be one of {', '.join(LABEL_ENDINGS)}")
        if part and ending in LABEL_ENDINGS and self.output.name != part_name(part):
            raise ValueError(
                f"--output {self.output}: parts lie in a folder. Name it, or this part's file in it, "
                f"{part_name(part)}"
            )

    @property
    def part_of(self) -> Part | None:
        """Return the part that is asked for; `None` for all rows."""
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", self.part or "")
        part = Part(int(match[1]), int(match[2])) if match else None
        return part if part and 1 <= part.ordinal <= part.total else None

    @property
    def has_prices(self) -> bool:
        """Return whether tokens of `llm` have a price."""
        return self.price_input is not None or self.price_output is not None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes of `labels`; of a single text, those between its commas."""
        texts = self.labels[0].split(",") if len(self.labels) == 1 else self.labels
        return tuple(stripped for text in texts if (stripped := text.strip()))


def part_name(part: Part) -> str:
    """Return the name of a part's file."""
    return f"part-{part.ordinal:0{len(str(part.total))}}-of-{part.total}.parquet"


def _check_url(option_name: str, url: str) -> None:
    if "@" in url:
        raise ValueError(
            f"{option_name}: a URL with a name or password in it would be printed and saved. Leave them out; "
            "a key is taken from the environment"
        )
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{option_name} {url}: it begins with neither http:// nor https://")
    try:
        urlsplit(url).port  # noqa: B018  # parsed when it is read
    except ValueError as error:
        raise ValueError(f"{option_name} {url}: it is no URL ({error})") from None
