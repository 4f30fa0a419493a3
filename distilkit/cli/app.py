"""The commands: each a short shell around the function that does the work."""

from typing import TYPE_CHECKING, Annotated

import typer

import distilkit
from distilkit.cli import output as output_out
from distilkit.cli import tables
from distilkit.cli.options import PlainHelpGroup, command
from distilkit.cli.output import Output
from distilkit.errors import DISK_ERRORS, GateMissed, UserError
from distilkit.reports import summary
from distilkit.stopping import handling_signals

if TYPE_CHECKING:
    from distilkit.config import (
        AugmentConfig,
        BudgetConfig,
        CacheConfig,
        CachePruneConfig,
        DistillConfig,
        DoctorConfig,
        EvaluateConfig,
        ExportConfig,
        LabelConfig,
        PredictConfig,
        ReportConfig,
        ServeConfig,
        SweepConfig,
        SweepReportConfig,
        TrainConfig,
    )

app = typer.Typer(
    name="distilkit",
    cls=PlainHelpGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distill a fine-tuned transformer classifier into a small, fast one.",
    epilog="Start with: distilkit train --help",
)


def _version(show_version: bool) -> None:
    if show_version:
        typer.echo(f"distilkit {distilkit.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options that stand before a command."""


@command(
    app,
    "TrainConfig",
    examples=(
        "distilkit train -d sst2 -m minilm -o runs/teacher",
        "distilkit train --data-dir reviews --label-column stars -o runs/stars",
    ),
)
def train(config: "TrainConfig", output: Output) -> None:
    """Fine-tune a teacher: any encoder that AutoModelForSequenceClassification takes."""
    from distilkit.workflows import training

    with output:
        run = training.train(config, output)
    output.result(*tables.run_summary(run))


@command(
    app,
    "DistillConfig",
    examples=(
        "distilkit distill -d sst2 -t runs/teacher -r auto -o runs/student",
        "distilkit distill --data-dir reviews -t runs/teacher -a 0.5 -o runs/half",
    ),
)
def distill(config: "DistillConfig", output: Output) -> None:
    """Distill a teacher into a student: loss = alpha * CE(labels) + (1 - alpha) * MSE(teacher's logits)."""
    from distilkit.workflows.distillation import workflow

    with output:
        run = workflow.distill(config, output)
    output.result(*tables.run_summary(run))


@command(
    app,
    "SweepConfig",
    examples=(
        "distilkit sweep -d sst2 -t runs/teacher -a 0,0.25,0.5,0.75,1 -s 1..5 -o sweeps/alpha",
        "distilkit sweep -d sst2 -t runs/teacher --student bilstm,tinybert -o sweeps/students",
    ),
)
def sweep(config: "SweepConfig", output: Output) -> None:
    """Train a student for each combination of values; say which is best, and whether a teacher helps.

    Most options of `distill` take several values: 0,0.5,1 or 1..5 or 0..1:0.1. Each student is also
    trained on labels alone, with the same options and seeds. The same command continues a sweep that
    was stopped, extends it by further values, and shares it with other machines.
    """
    from distilkit.workflows.sweeping import planning, workflow

    if config.dry_run:
        with output:
            plan = planning.plan_sweep(config, output)
        output.result(plan.document(), plan.text())
        return
    with output:
        result = workflow.sweep(config, output)
    output.result(result.document(), tables.sweep_text(result.typed_document))


@command(
    app,
    "SweepReportConfig",
    "report",
    below="sweep",
    examples=("distilkit sweep report sweeps/alpha", "distilkit sweep report sweeps/alpha --json"),
)
def sweep_report(config: "SweepReportConfig", output: Output) -> None:
    """Compare the runs of a sweep, finished or not: intervals, paired differences, a verdict, a page."""
    from distilkit.workflows.sweeping import reporting

    with output:
        result = reporting.sweep_report(config, output)
    output.result(result.document(), tables.sweep_text(result.typed_document))


@command(
    app,
    "BudgetConfig",
    "fit",
    examples=(
        "distilkit fit --data-dir reviews -t runs/teacher --max-latency-ms 2 --max-mb 15 -o fits/reviews",
        "distilkit fit -d sst2 -m minilm --min-kept 0.98 --test -o fits/sst2",
    ),
)
def fit(config: "BudgetConfig", output: Output) -> None:
    """Find the cheapest student within limits on latency, size and quality: a budget in, a student out.

    Students are tried from the fastest on, in int8 and in fp32, each measured on this CPU. When none
    meets the limits, the exit code is 3, and the last line says by how much and what would help.
    """
    from distilkit.workflows.budgeting import workflow

    with output:
        result = workflow.fit_budget(config, output)
    output.result(result.document(), tables.budget_text(result.typed_document))
    workflow.check_choice(result)


@command(
    app,
    "AugmentConfig",
    examples=(
        "distilkit augment -d sst2 -o runs/sst2-augmented.parquet",
        "distilkit augment --data-dir reviews -n 10 -o runs/more.parquet",
    ),
)
def augment(config: "AugmentConfig", output: Output) -> None:
    """Generate augmented texts from the training split: one Parquet file, unlabelled."""
    from distilkit.workflows.augmentation import workflow

    with output:
        result = workflow.augment(config, output)
    output.result(result.document(), tables.augmentation_text(result.document()))


@command(
    app,
    "DoctorConfig",
    examples=(
        "distilkit doctor --data-dir reviews",
        "distilkit doctor --data-dir reviews -t runs/teacher -r auto",
    ),
)
def doctor(config: "DoctorConfig", output: Output) -> None:
    """Check data, labels, teacher, tokenizers, time and memory before a `distill` run.

    Takes the options of `distill`; without a teacher it checks the data alone. Exit code 3 when an error is
    found, 0 with warnings or nothing.
    """
    from distilkit.workflows.diagnosis import workflow

    with output:
        result = workflow.doctor(config, output)
    output.result(result.document(), tables.diagnosis_text(result.document()))
    workflow.check_findings(result)


@command(
    app,
    "EvaluateConfig",
    examples=(
        "distilkit evaluate runs/teacher runs/student -d sst2",
        "distilkit evaluate runs/student -d sst2 --fail-under accuracy=0.85",
    ),
)
def evaluate(config: "EvaluateConfig", output: Output) -> None:
    """Score models on one split, side by side: quality, agreement with the teacher, size and speed."""
    from distilkit.workflows.evaluation import gates, workflow

    with output:
        result = workflow.evaluate(config, output)
    output.result(result.document(), tables.EvaluationView(result.typed_document))
    if output.as_json:  # the table has them
        output.note_all([f"note: {text}" for text in summary.describe_warnings(result.typed_document)])
    gates.check_gates(result)
    workflow.check_written(result)


@command(
    app,
    "PredictConfig",
    examples=(
        "distilkit predict runs/student 'a great film'",
        "distilkit predict runs/student reviews.csv -o answers.csv",
    ),
)
def predict(config: "PredictConfig", output: Output) -> None:
    """Classify texts, or the rows of files, in constant memory: to stdout, or to a file of rows.

    The columns of the rows are kept; `label` and `score`, its probability, are added.
    """
    from distilkit.workflows.prediction import workflow

    in_document = output.as_json and config.output is None
    if in_document and config.format:
        raise UserError(f"--format {config.format} is for rows, and --json prints a document: leave one out.")
    rows: list[str] = []
    with output:
        result = workflow.predict(config, output, rows.append if in_document else output.write_rows)
    document = result.document(rows if in_document else None)
    if config.output or output.as_json:
        output.result(document, tables.prediction_text(document))
    else:  # the rows are on stdout
        output.note(tables.prediction_text(document))


@command(
    app,
    "ExportConfig",
    examples=(
        "distilkit export runs/student -o exported",
        "distilkit export runs/student --int8 --max-drop 0.3 -o exported-int8",
        "distilkit export runs/student --format web -o page",
    ),
)
def export(config: "ExportConfig", output: Output) -> None:
    """Write a model as a folder that predicts with onnxruntime, tokenizers and numpy, without torch.

    --format packs it for SageMaker or MLflow, as a page for a browser, or as weights in fp16.

    Its answers are compared with the model's on real rows: by default those that the run was validated on.
    `predict` and `evaluate` take the folder like any model.
    """
    from distilkit.workflows.exporting import workflow

    with output:
        result = workflow.export(config, output)
    output.result(result.document(), tables.export_table(result.document()))


@command(
    app,
    "ServeConfig",
    examples=(
        "distilkit serve runs/student",
        "DISTILKIT_SERVE_TOKEN=secret distilkit serve runs/student --host 0.0.0.0 --port 80",
    ),
)
def serve(config: "ServeConfig", output: Output) -> None:
    """Answer texts over HTTP, in the format of Hugging Face endpoints, until SIGTERM or Ctrl-C.

    Requests bring a token where DISTILKIT_SERVE_TOKEN is set. The page /docs describes the routes.
    """
    from distilkit.workflows.serving import workflow

    with output:
        result = workflow.serve(config, output)
    output.result(result.document(), tables.serving_text(result.document()))


@command(
    app,
    "LabelConfig",
    examples=(
        "distilkit label reviews.csv -m runs/teacher -o logits.parquet",
        "distilkit label reviews.csv --llm http://localhost:8000 --llm-model qwen3 --prompt ask.txt -o a.csv",
    ),
)
def label(config: "LabelConfig", output: Output) -> None:
    """Write what a teacher says of rows to a file, for `distill --teacher-file`.

    The teacher is a model, a classifier behind a URL, or a language model behind a chat API.
    Its key is read from DISTILKIT_API_KEY or OPENAI_API_KEY.
    """
    from distilkit.workflows.labelling import workflow

    if config.dry_run:
        with output:
            plan = workflow.plan(config, output)
        output.result(plan.document(), plan.text())
        return
    with output:
        result = workflow.label(config, output)
    output.result(result.document(), tables.labelling_text(result.document()))


@command(
    app,
    "ReportConfig",
    examples=(
        "distilkit report runs/teacher runs/student",
        "distilkit report runs/alpha-* -o reports/alpha",
    ),
)
def report(config: "ReportConfig", output: Output) -> None:
    """Plot the training curves of one or more runs: losses and metrics of every epoch."""
    from distilkit.workflows import reporting

    with output:
        result = reporting.report(config, output)
    output.result(result.document(), tables.report_text(result.document()))


cache = typer.Typer(
    cls=PlainHelpGroup, no_args_is_help=True, help="Inspect, verify and prune cached teacher logits."
)
app.add_typer(cache, name="cache")


@command(
    cache,
    "CacheConfig",
    "path",
    examples=("distilkit cache path", "DISTILKIT_CACHE=/mnt/logits distilkit cache path"),
)
def cache_path(config: "CacheConfig", output: Output) -> None:
    """Print the folder: $DISTILKIT_CACHE, else the user's cache folder."""
    from distilkit.workflows import caching

    folder = caching.locate(config)
    output.result(folder.document(), str(folder.path))


@command(
    cache,
    "CacheConfig",
    "list",
    examples=("distilkit cache list", "distilkit cache list --json > cache.json"),
)
def cache_list(config: "CacheConfig", output: Output) -> None:
    """List the teachers whose logits are stored."""
    from distilkit.workflows import caching

    listing = caching.list_entries(config)
    output.result(listing.document(), tables.cache_table(listing.document()))


@command(
    cache,
    "CacheConfig",
    "verify",
    examples=("distilkit cache verify", "distilkit cache verify --quiet || distilkit cache prune"),
)
def cache_verify(config: "CacheConfig", output: Output) -> None:
    """Read all cached logits again; exit code 3 when something is damaged."""
    from distilkit.workflows import caching

    with output:
        result = caching.verify(config, output)
    output.result(result.document(), tables.verification_text(result.document()))
    caching.check_damage(result)


@command(
    cache,
    "CachePruneConfig",
    "prune",
    examples=("distilkit cache prune", "distilkit cache prune --unused-days 90"),
)
def cache_prune(config: "CachePruneConfig", output: Output) -> None:
    """Remove damaged files and leftovers, and the entries that are named or long unused."""
    from distilkit.workflows import caching

    result = caching.prune(config)
    output.result(result.document(), tables.pruning_text(result.document()))


def main() -> None:
    """Run the console script: 0 done, 2 the user's mistake, 3 a missed gate, 128 + signal stopped."""
    output_out.escape_unencodable()
    with handling_signals():
        try:
            app(prog_name="distilkit")  # also as `python -m distilkit`
        except UserError as mistake:
            output_out.error(str(mistake))
            raise SystemExit(2) from None
        except GateMissed as missed:
            output_out.error(str(missed))
            raise SystemExit(3) from None
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            where = error.filename or "a file, or stdout,"
            output_out.error(f"{where} cannot be used: {error.strerror}.")
            raise SystemExit(2) from None
        finally:
            output_out.flush_stdout()
