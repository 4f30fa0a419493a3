"""The students that `fit` may try: how each is distilled, and what it costs before it is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distilkit.config import DistillConfig, ExportConfig, TextsConfig, resolve
from distilkit.config.budgeting import LAYERS, BudgetConfig
from distilkit.config.fields import field_infos, replace_values
from distilkit.errors import pluralize
from distilkit.models.classifier import Classifier
from distilkit.models.exported import ExportedClassifier, load_exported
from distilkit.models.loading import save_model
from distilkit.models.students import make_student
from distilkit.progress import SILENT
from distilkit.reports.budget_document import BudgetCost, Form
from distilkit.runs.locating import Source
from distilkit.workflows.exporting.workflow import export

FORMS: tuple[Form, ...] = ("int8", "fp32")  # the cheaper first
TIMED_ROWS = 200
# Of teacher and students alike, beside where the texts are.
TRAINING_OPTIONS = ("max_length", "max_eval_samples", "max_train_samples", "precision", "device", "seed")
ANY_DROP = 100.0  # points: a search has its own limit on quality


@dataclass(frozen=True)
class Candidate:
    """A student that may be tried.

    Attributes:
        student: `static`, `bilstm` or `layers`.
        layers: of the teacher, how many; `None` for the others.
        costs: of its forms with untrained weights.
        parameters: of the student.
    """

    student: str
    layers: int | None
    costs: Mapping[Form, BudgetCost]
    parameters: int

    @property
    def name(self) -> str:
        """Return the name of its run's folder."""
        return name_student(self.student, self.layers)

    def describe(self, form: Form) -> str:
        """Return the name of one of its forms, such as `bilstm in int8`."""
        student = self.student if self.layers is None else pluralize(self.layers, "layer")
        return f"{student} in {form}"


def take_options(config: BudgetConfig, *names: str) -> dict[str, Any]:
    """Return the options of a search that say where its texts are, and those of these names."""
    return {name: getattr(config, name) for name in (*field_infos(TextsConfig), *names)}


def name_student(student: str, layers: int | None) -> str:
    """Return the name of a student's folder."""
    return student if layers is None else f"{student}-{layers}"


def make_distill_config(
    config: BudgetConfig, teacher: str, student: str, layers: int | None, output_dir: Path
) -> DistillConfig:
    """Return how a student is distilled: by `--recipe auto`, but for what the search was told."""
    shared = take_options(config, *TRAINING_OPTIONS)
    shared |= {name: value for name in ("alpha", "epochs") if (value := getattr(config, name)) is not None}
    if student == LAYERS:
        shared |= {"student": teacher, "init": "teacher", "layers": layers}
    else:
        shared |= {"student": student}
    return DistillConfig(
        **shared, teacher=(teacher,), transfer=config.transfer, recipe="auto", output_dir=output_dir
    )


def measure_candidate(
    config: BudgetConfig, teacher: Classifier, student: str, layers: int | None, home: Path
) -> Candidate:
    """Export a student with untrained weights and time it: its speed does not depend on what it learns.

    Args:
        home: a folder on whose disk it is written for the while.

    Raises:
        UserError: when it cannot be made of this teacher, or not exported.
    """
    distillation = make_distill_config(config, teacher.name, student, layers, home / "student")
    resolved = resolve(replace_values(distillation, recipe=None))
    untrained = make_student(resolved, teacher.class_names, teacher, ())
    costs: dict[Form, BudgetCost] = {}
    with TemporaryDirectory(dir=home, prefix=".untrained-") as draft:
        folder = Path(draft, "student")
        folder.mkdir()
        save_model(untrained.model, untrained.tokenizer, folder, config.max_length)
        for form in FORMS:
            output = Path(draft, form)
            export_form(config, str(folder), form, output, timed_rows=TIMED_ROWS)
            costs[form] = read_cost(load_exported(Source(form, output)))
    return Candidate(student, layers, costs, untrained.parameters[0])


def export_form(
    config: BudgetConfig, model: str, form: Form, output: Path, *, timed_rows: int | None = None
) -> None:
    """Export one form of a model, checked on validation rows; with `timed_rows` also timed, on so many.

    Raises:
        UserError: as `export`.
    """
    export(
        ExportConfig(
            **take_options(config, "max_length", "threads"),
            model=model,
            output_dir=output,
            int8=form == "int8",
            max_drop=ANY_DROP,
            max_eval_samples=timed_rows or config.max_eval_samples,
            latency=timed_rows is not None,
        ),
        SILENT,
    )


def read_cost(exported: ExportedClassifier) -> BudgetCost:
    """Return the cost of the graph that this CPU runs, as it was measured when it was exported."""
    measured = next(
        model for model in exported.manifest["checked"]["models"] if model["name"] == exported.graph
    )
    latency = measured["latency"]
    return BudgetCost(bytes=exported.bytes, latency_p50_ms=latency["p50"], latency_p95_ms=latency["p95"])
