"""Options of `evaluate`, and the figures that its gates take."""

from typing import Literal

from pydantic import model_validator

from distilkit.config.data import DEVICE_HELP, DataConfig, Device, Precision
from distilkit.config.fields import (
    ModelName,
    OptionalPath,
    Strings,
    closest,
    field_infos,
    flag,
    option,
    positional,
)
from distilkit.config.teacher_files import TeacherFileConfig

Split = Literal["train", "validation", "test"]


GLUE_FILES = {"sst2": "SST-2.tsv", "mrpc": "MRPC.tsv"}
LATENCIES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
# Figures of `evaluate` by which way is better.
HIGHER: tuple[str, ...] = (
    *("accuracy", "f1", "precision", "recall", "f1_macro", "precision_macro", "recall_macro", "mcc"),
    *("roc_auc", "average_precision", "agreement", "accuracy_kept", "gap_recovered", "rows_per_second"),
)
LOWER: tuple[str, ...] = (
    *("loss", "brier", "ece", "kl", *LATENCIES),
    *("parameters", "parameters_without_embeddings", "bytes", "peak_memory_bytes"),
)
FIDELITY = ("agreement", "kl", "accuracy_kept", "gap_recovered")
SHARES = ({*HIGHER} - {"rows_per_second"}) | {"brier", "ece"}


class EvaluateConfig(TeacherFileConfig, DataConfig):
    """Score models on one split, side by side: quality, agreement with the teacher, size and speed."""

    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens. (default: what a run was trained with, else 256 for imdb and 128)",
    )
    models: Strings = positional((), help="Run folders, model folders or Hub ids.")
    predictions: Strings = option(
        (),
        panel="Model",
        help="Predictions of another system, repeatable: .csv, .jsonl … with label, score; a line per row.",
    )
    endpoint: Strings = option(
        (),
        panel="Model",
        help="Classifier behind a URL, repeatable: inputs in, labels and scores out.",
    )
    teacher: ModelName | None = option(
        None,
        panel="Model",
        short="-t",
        basic=True,
        help="Compare the others with it. (default: the teacher a run names, if it is here, else a "
        "--teacher-file)",
    )
    labels_only: ModelName | None = option(
        None,
        panel="Model",
        help="Label-only student, the baseline of gap_recovered. (default: a run at alpha 1)",
    )
    split: Split = option("validation", panel="Data", basic=True, help="Split to score. It must have labels.")
    fail_under: Strings = option(
        (),
        panel="Gates",
        basic=True,
        suggestions=[f"{metric}=" for metric in HIGHER],
        help="METRIC=VALUE for higher-is-better metrics, repeatable: exit code 3 if a model is below.",
    )
    fail_over: Strings = option(
        (),
        panel="Gates",
        suggestions=[f"{metric}=" for metric in LOWER],
        help="METRIC=VALUE for lower-is-better metrics, repeatable: exit code 3 if a model is above.",
    )
    baseline: OptionalPath = option(
        None,
        panel="Gates",
        help="JSON of an earlier evaluation: exit code 3 if a model is significantly less accurate.",
    )
    report: OptionalPath = option(
        None,
        panel="Output",
        basic=True,
        help="Folder for a page with pictures that opens anywhere, and the pictures.",
    )
    markdown: OptionalPath = option(
        None, panel="Output", help="File for a summary in Markdown, for a pull request."
    )
    glue_submission: OptionalPath = option(
        None,
        panel="Output",
        help="Folder for the answers to GLUE's test split, as gluebenchmark.com takes them.",
    )
    latency: bool = option(
        True, panel="Speed", help="Time requests of one row too, 200 at most or 10 s a model."
    )
    threads: int | None = option(
        None, ge=1, panel="Speed", help="Cores that may compute. (default: those that torch takes)"
    )
    precision: Precision = option("auto", panel="Speed", help="Compute precision, as in train.")
    device: Device = option(None, panel="Speed", help=DEVICE_HELP)
    endpoint_batch_size: int = option(16, ge=1, panel="Speed", help="Rows a request to an endpoint.")
    concurrency: int = option(8, ge=1, panel="Speed", help="Requests to an endpoint at a time.")
    timeout: float = option(30.0, gt=0, panel="Speed", help="Seconds an endpoint has for a request.")
    retries: int = option(3, ge=0, panel="Speed", help="How often a failed request is sent again.")
    seed: int = option(42, ge=0, panel="Output", help="Random seed of the confidence intervals.")

    @model_validator(mode="after")
    def _fits_together(self) -> "EvaluateConfig":
        if not (self.models or self.predictions or self.endpoint or self.teacher_file):
            raise ValueError(
                "nothing to score: name a run or a model, or give --predictions, --teacher-file or --endpoint"
            )
        parse_gates(self.fail_under, "--fail-under")
        parse_gates(self.fail_over, "--fail-over")
        if self.glue_submission:
            if self.dataset not in GLUE_FILES:
                raise ValueError(f"--glue-submission is for --dataset {' or '.join(GLUE_FILES)}")
            if len(self.models) != 1:
                raise ValueError("--glue-submission takes the answers of one model: name one")
        if self.predictions and self.max_eval_samples:
            raise ValueError("--predictions files have all rows: leave --max-eval-samples out")
        if self.predictions and self.missing == "skip":
            raise ValueError("--predictions files have all rows: leave --missing skip out")
        for url in self.endpoint:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"--endpoint {url}: it begins with neither http:// nor https://")
        if not self.endpoint:
            for name in ("endpoint_batch_size", "concurrency", "timeout", "retries"):
                if getattr(self, name) != field_infos(EvaluateConfig)[name].default:
                    raise ValueError(f"{flag(name)} belongs to an endpoint: add --endpoint URL")
        return self

    @property
    def sends_single_rows(self) -> bool:
        """Return whether a request to an endpoint has a row's latency: one row, with no other waiting."""
        return self.endpoint_batch_size == self.concurrency == 1


def parse_gates(texts: tuple[str, ...], option_name: str) -> tuple[tuple[str, float], ...]:
    """Parse `("accuracy=0.85",)` as `(("accuracy", 0.85),)`.

    Args:
        option_name: `--fail-under`, for metrics where higher is better, or `--fail-over` for the rest.

    Raises:
        ValueError: naming the part that is wrong.
    """
    metrics, opposite_metrics, opposite_option = HIGHER, LOWER, "--fail-over"
    if option_name == opposite_option:
        metrics, opposite_metrics, opposite_option = LOWER, HIGHER, "--fail-under"
    parsed = []
    for gate in texts:
        metric, equals, value = gate.partition("=")
        if metric in opposite_metrics:
            raise ValueError(
                f"{option_name} {gate}: that would fail good values. Use {opposite_option} {gate}"
            )
        if not equals or metric not in metrics:
            close = closest(metric, metrics)
            near = f", such as {close}=NUMBER" if close and close != metric else ""
            raise ValueError(
                f"{option_name} {gate}: write METRIC=VALUE{near}. The metrics are {', '.join(metrics)}"
            )
        try:
            threshold = float(value)
        except ValueError:
            raise ValueError(f"{option_name} {gate}: {value!r} is not a number; try {metric}=0.85") from None
        if not abs(threshold) < float("inf"):
            raise ValueError(f"{option_name} {gate}: {value!r} cannot be a threshold; try {metric}=0.85")
        if metric in SHARES and threshold >= 2:
            raise ValueError(f"{option_name} {gate}: {metric} is a share; try {metric}={threshold / 100:g}")
        parsed.append((metric, threshold))
    return tuple(parsed)
