"""The commands: each a short shell around the function that does the work."""

import signal
from typing import Annotated

import typer

import distilkit
from distilkit.cli import output as out
from distilkit.cli.options import with_options
from distilkit.cli.output import Output
from distilkit.config import DistillConfig, EvaluateConfig, TrainConfig
from distilkit.errors import GateMissed, UserError

app = typer.Typer(
    name="distilkit",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distill a fine-tuned transformer classifier into a small, fast one.",
    epilog="Start with: distilkit train --help",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distilkit {distilkit.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before a command."""


@app.command()
@with_options(TrainConfig)
def train(config: TrainConfig, output: Output) -> None:
    """Fine-tune a teacher: any encoder that AutoModelForSequenceClassification takes."""
    from distilkit.workflows import training

    with output:
        run = training.train(config, output)
    output.result(*out.run_summary(run))


@app.command()
@with_options(DistillConfig)
def distill(config: DistillConfig, output: Output) -> None:
    """Distill a teacher into a student: loss = alpha * CE(labels) + (1 - alpha) * MSE(teacher's logits)."""
    from distilkit.workflows import distillation

    with output:
        run = distillation.distill(config, output)
    output.result(*out.run_summary(run))


@app.command()
@with_options(EvaluateConfig)
def evaluate(config: EvaluateConfig, output: Output) -> None:
    """Score models on one split, side by side: quality, agreement with the teacher, size and speed."""
    from distilkit.workflows import evaluation

    with output:
        result = evaluation.evaluate(config, output)
    output.result(result.document(), out.evaluation_table(result.document()))
    evaluation.check_gates(result)


def _terminated(*_: object) -> None:
    raise SystemExit(143)  # as an exception, so that a half-written run is cleared away


def main() -> None:
    """The console script: 0 done, 2 the user's mistake, 3 a missed gate, 130 or 143 stopped."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except UserError as mistake:
        out.error(str(mistake))
        raise SystemExit(2) from None
    except GateMissed as missed:
        out.error(str(missed))
        raise SystemExit(3) from None
