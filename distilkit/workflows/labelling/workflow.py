"""`label`: what a teacher says of rows, as a file for `distill --teacher-file`."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from distilkit import __version__
from distilkit.config.labelling import LABEL_ENDINGS, LabelConfig, part_name
from distilkit.data.row_formats import RowEncoder, write_parquet
from distilkit.data.row_inputs import Inputs
from distilkit.data.streams import Piece
from distilkit.data.texts import Texts
from distilkit.engine.inference.posting import open_client
from distilkit.errors import UserError
from distilkit.progress import SILENT, Reporter
from distilkit.runs.folder import check_home
from distilkit.runs.resumable import ResumableFile, open_resumable
from distilkit.workflows.labelling.blocks import Block
from distilkit.workflows.labelling.budget import Budget, Prices
from distilkit.workflows.labelling.dry_run import LabelPlan, plan_labelling
from distilkit.workflows.labelling.inputs import choose_label_inputs, find_class_names
from distilkit.workflows.labelling.parts import check_parts, describe_job, list_missing
from distilkit.workflows.labelling.responses import open_responses
from distilkit.workflows.labelling.servers import (
    LanguageModel,
    describe_server,
    label_with_endpoint,
    label_with_llm,
)
from distilkit.workflows.labelling.tally import TASK, Tally

if TYPE_CHECKING:
    from distilkit.engine.inference.labeller import Labeller

SCHEMA = "distilkit.labelling/1"


@dataclass(frozen=True)
class Labelling:
    """What `label` wrote, and what it took.

    Attributes:
        teacher: its name or URL.
        missing_parts: of the folder, `None` where all rows are in one file.
        requests, cost: of all commands for this file; `None` where no server was asked.
        resumed_rows: rows that were there from an earlier command.
    """

    teacher: str
    output: Path
    tally: Tally
    missing_parts: list[int] | None
    resumed_rows: int
    seconds: float
    rows_per_second: float | None
    requests: int | None = None
    cost: float | None = None

    @property
    def teacher_file(self) -> Path:
        """Return what `distill --teacher-file` takes."""
        return self.output if self.missing_parts is None else self.output.parent

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document."""
        tally = self.tally
        return {
            "schema": SCHEMA,
            "teacher": self.teacher,
            "output": str(self.output),
            "teacher_file": str(self.teacher_file),
            "rows": tally.rows,
            "skipped": tally.skipped,
            "skipped_rows": tally.skipped_rows,
            "unlabelled": tally.unlabelled,
            "truncated": tally.truncated,
            "labels": tally.labels,
            "missing_parts": self.missing_parts,
            "requests": self.requests,
            "cost": self.cost,
            "resumed_rows": self.resumed_rows,
            "seconds": self.seconds,
            "rows_per_second": self.rows_per_second,
        }


@dataclass(frozen=True)
class _Job:
    """What is labelled, by which teacher, and what the rows depend on."""

    config: LabelConfig
    inputs: Inputs
    identity: dict[str, Any]
    labeller: "Labeller | None" = None
    class_names: tuple[str, ...] = ()
    template: str = ""

    @property
    def teacher(self) -> str:
        """Return the name of the teacher."""
        return str(self.config.model or self.config.endpoint or self.config.llm_model)


def label(config: LabelConfig, reporter: Reporter = SILENT) -> Labelling:
    """Write what the teacher of `config` says of its rows.

    Raises:
        UserError: when options, teacher or data do not fit, a server fails or a limit is reached.
    """
    started = time.perf_counter()
    if config.engine == "spark":
        return _label_on_spark(config, started, reporter)
    output = choose_output(config)
    job = _prepare(config, reporter)
    check_label_output(config, output, job.inputs.files)
    if config.part_of:
        check_parts(output.parent, config.part_of, job.identity)
    with open_resumable(
        output, job.identity, reporter, resume=config.resume, overwrite=config.overwrite
    ) as file:
        tally, budget = Tally(**file.state), Budget(config.max_requests, config.max_cost)
        resumed_rows, begun = tally.rows, time.perf_counter()
        if resumed_rows:
            reporter.note(f"{output}: goes on after {resumed_rows:,} rows")
        if not file.is_complete:
            with _label_rows(job, file, tally, budget, reporter) as blocks:
                _write(blocks, tally, file, job, reporter)
        seconds = time.perf_counter() - begun
        file.finish(
            partial(write_parquet, metadata=describe_job(job.identity))
            if output.suffix.lower() == ".parquet"
            else None
        )
    rows = tally.rows - resumed_rows
    return Labelling(
        teacher=job.teacher,
        output=output,
        tally=tally,
        missing_parts=list_missing(output.parent, config.part_of) if config.part_of else None,
        resumed_rows=resumed_rows,
        seconds=round(time.perf_counter() - started, 3),
        rows_per_second=round(rows / seconds, 1) if rows else None,
        requests=budget.requests if job.labeller is None else None,
        cost=budget.cost if config.has_prices else None,
    )


def _label_on_spark(config: LabelConfig, started: float, reporter: Reporter) -> Labelling:
    """Let the executors of Spark label the rows, and count what they wrote.

    Args:
        started: when the command began, by `time.perf_counter`.
    """
    from distilkit.runs.locating import find_model
    from distilkit.workflows.labelling.spark import Teacher, choose_text_columns, count_labels, label_files

    assert config.model and config.output
    inputs = choose_label_inputs(config, find_model(config.model).run)
    path = Path(config.model).expanduser()
    teacher = Teacher(
        str(path.absolute()) if path.exists() else config.model,
        choose_text_columns(inputs.files, inputs.columns),
        config.max_length,
        config.precision,
        config.device,
    )
    class_names = label_files(
        inputs.files, config.output, teacher, overwrite=config.overwrite, reporter=reporter
    )
    labels = count_labels(config.output, class_names)
    seconds = time.perf_counter() - started
    return Labelling(
        teacher=config.model,
        output=config.output,
        tally=Tally(rows=labels.total(), labels=dict(labels)),
        missing_parts=None,
        resumed_rows=0,
        seconds=round(seconds, 3),
        rows_per_second=round(labels.total() / seconds, 1),
    )


def plan(config: LabelConfig, reporter: Reporter = SILENT) -> LabelPlan:
    """Say what `label` would send, without sending it.

    Raises:
        UserError: when options or data do not fit.
    """
    job = _prepare(config, reporter)
    prices = _prices(config) if config.has_prices else None
    return plan_labelling(config, job.inputs, job.template, job.class_names, prices)


def choose_output(config: LabelConfig) -> Path:
    """Return the file that is written: of a part, one in its folder."""
    assert config.output is not None
    part = config.part_of
    if part is None or config.output.suffix.lower() in LABEL_ENDINGS:
        return config.output
    return config.output / part_name(part)


def check_label_output(config: LabelConfig, output: Path, files: Sequence[Path]) -> None:
    """Refuse an output that cannot be written, or that is an input, before any work."""
    if output.is_dir():
        raise UserError(f"--output {output} is a folder. Name a file in it.")
    if config.part_of and output.parent.is_file():
        raise UserError(f"--output {output.parent} is a file, and parts lie in a folder. Name another.")
    if any(output.exists() and output.samefile(file) for file in files):
        raise UserError(f"--output {output} is read too. Name another file.")
    check_home(output, "--output")


def _prepare(config: LabelConfig, reporter: Reporter) -> _Job:
    """Find data and teacher, and all that the rows depend on."""
    part = {"part": list(config.part_of) if config.part_of else None, "on_error": config.on_error}
    common: dict[str, Any] = {"distilkit": __version__, **part}
    if config.model:
        from distilkit.workflows.labelling.model import prepare_labeller  # it takes torch, seconds to load

        labeller, run = prepare_labeller(config, reporter)
        inputs = choose_label_inputs(config, run)
        identity = {**common, **labeller.describe(), **inputs.describe()}
        return _Job(config, inputs, identity, labeller, labeller.class_names)
    inputs = choose_label_inputs(config, None)
    if config.endpoint:
        return _Job(config, inputs, {**common, "endpoint": config.endpoint} | inputs.describe())
    template, class_names = _read_prompt(config), find_class_names(config, inputs.files)
    if "{text_pair}" in template and not inputs.columns.pair:
        raise UserError(f"--prompt {config.prompt}: {{text_pair}} needs --text-pair-column COLUMN.")
    identity = {
        **common,
        "llm_model": config.llm_model,
        "prompt": sha256(template.encode()).hexdigest(),
        "labels": list(class_names),
        "votes": config.votes,
        "max_tokens": config.max_tokens,
    }
    return _Job(config, inputs, identity | inputs.describe(), None, class_names, template)


def _read_prompt(config: LabelConfig) -> str:
    assert config.prompt is not None
    try:
        template = config.prompt.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"--prompt {config.prompt} cannot be read: {reason}.") from None
    if "{text}" not in template:
        raise UserError(
            f"--prompt {config.prompt}: it has no {{text}}. Write that where the text is to stand."
        )
    return template


def _prices(config: LabelConfig) -> Prices:
    return Prices(config.price_input or 0.0, config.price_output or 0.0)


@contextmanager
def _label_rows(
    job: _Job, file: ResumableFile, tally: Tally, budget: Budget, reporter: Reporter
) -> Iterator[Iterator[Block]]:
    """Provide the rows that are not labelled yet with their answers.

    Responses of earlier commands for this file are used again, and all of them are kept after a failure.
    """
    config = job.config
    if job.labeller:
        from distilkit.workflows.labelling.model import label_with_model

        yield label_with_model(config, job.labeller, job.inputs, tally, reporter)
        return
    with open_responses(file.folder) as cache, open_client(describe_server(config)) as client:
        for spent in cache.spent:
            budget.requests += int(spent.get("requests", 1))
            budget.cost += _prices(config).cost_of(spent.get("usage"))
        try:
            if config.endpoint:
                yield label_with_endpoint(config, client, cache, job.inputs, tally, reporter)
            else:
                model = LanguageModel(
                    config, job.class_names, job.template, client, cache, budget, _prices(config)
                )
                yield label_with_llm(model, job.inputs, tally, reporter)
        except BaseException:
            file.has_parts = file.has_parts or not cache.is_empty
            raise


def _write(blocks: Iterator[Block], tally: Tally, file: ResumableFile, job: _Job, reporter: Reporter) -> None:
    """Write all blocks, and at least the header of an empty part."""
    encoder = RowEncoder(file.output.suffix.lower(), tally.encoder)
    for block in blocks:
        where = job.inputs.names[block.position.source]
        content = encoder.encode(block.piece, block.columns, where) if len(block.piece) else b""
        reporter.note_all([f"left out: {message}" for message in tally.add(block)])
        tally.encoder = encoder.state
        file.append(content, asdict(tally))
    if tally.rows:
        reporter.advance(TASK, tally.rows, tally.rows)
        return
    if job.config.part_of is None or job.labeller is None:
        left_out = f": {tally.skipped:,} rows were left out" if tally.skipped else ""
        raise UserError(f"{job.inputs.names[0]}: there is no row to label{left_out}.")
    names = job.inputs.columns
    texts = {name: pa.array([], pa.string()) for name in (names.candidates[0], names.pair) if name}
    targets = {f"logit_{name}": pa.array([], pa.float32()) for name in job.labeller.class_names}
    piece = Piece([], Texts(*([] for _ in texts)), pa.table(texts))
    file.append(encoder.encode(piece, targets, str(file.output)), asdict(tally))
