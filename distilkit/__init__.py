"""Distill a fine-tuned transformer classifier into a small, fast one.

from distilkit import DistillConfig, TrainConfig, distill, train

teacher = train(TrainConfig(dataset="sst2", model="minilm", output_dir="runs/teacher"))
student = distill(DistillConfig(dataset="sst2", teacher="runs/teacher", output_dir="runs/student"))
accuracy = student.metrics["validation"]["accuracy"]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distilkit.hardware.openmp import set_openmp_defaults

if TYPE_CHECKING:
    from distilkit.cli.output import ConsoleReporter
    from distilkit.config import (
        AugmentConfig,
        BudgetConfig,
        DistillConfig,
        DoctorConfig,
        EvaluateConfig,
        ExportConfig,
        LabelConfig,
        PredictConfig,
        ReportConfig,
        ServeConfig,
        SweepConfig,
        TrainConfig,
    )
    from distilkit.engine.inference.predictor import Predictions, Predictor, load
    from distilkit.errors import DistilkitWarning, GateMissed, UserError
    from distilkit.progress import Reporter
    from distilkit.runs.run import Run
    from distilkit.workflows.augmentation.workflow import augment
    from distilkit.workflows.budgeting.workflow import fit_budget
    from distilkit.workflows.diagnosis.workflow import doctor
    from distilkit.workflows.distillation.workflow import distill, distill_many
    from distilkit.workflows.evaluation.workflow import evaluate
    from distilkit.workflows.exporting.workflow import export
    from distilkit.workflows.labelling.workflow import label
    from distilkit.workflows.prediction.workflow import predict
    from distilkit.workflows.reporting import report
    from distilkit.workflows.serving.workflow import serve
    from distilkit.workflows.sweeping.workflow import sweep
    from distilkit.workflows.training import train

__version__ = "0.1.0"

set_openmp_defaults()

LAZY_MODULES = {
    "AugmentConfig": "config",
    "BudgetConfig": "config",
    "DistillConfig": "config",
    "DoctorConfig": "config",
    "EvaluateConfig": "config",
    "ExportConfig": "config",
    "LabelConfig": "config",
    "PredictConfig": "config",
    "ReportConfig": "config",
    "ServeConfig": "config",
    "SweepConfig": "config",
    "TrainConfig": "config",
    "ConsoleReporter": "cli.output",
    "DistilkitWarning": "errors",
    "GateMissed": "errors",
    "UserError": "errors",
    "Predictions": "engine.inference.predictor",
    "Predictor": "engine.inference.predictor",
    "Reporter": "progress",
    "Run": "runs.run",
    "augment": "workflows.augmentation.workflow",
    "distill": "workflows.distillation.workflow",
    "distill_many": "workflows.distillation.workflow",
    "doctor": "workflows.diagnosis.workflow",
    "evaluate": "workflows.evaluation.workflow",
    "export": "workflows.exporting.workflow",
    "fit_budget": "workflows.budgeting.workflow",
    "label": "workflows.labelling.workflow",
    "load": "engine.inference.predictor",
    "predict": "workflows.prediction.workflow",
    "report": "workflows.reporting",
    "serve": "workflows.serving.workflow",
    "sweep": "workflows.sweeping.workflow",
    "train": "workflows.training",
}
__all__ = [
    "AugmentConfig",
    "BudgetConfig",
    "ConsoleReporter",
    "DistilkitWarning",
    "DistillConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GateMissed",
    "LabelConfig",
    "PredictConfig",
    "Predictions",
    "Predictor",
    "ReportConfig",
    "Reporter",
    "Run",
    "ServeConfig",
    "SweepConfig",
    "TrainConfig",
    "UserError",
    "augment",
    "distill",
    "distill_many",
    "doctor",
    "evaluate",
    "export",
    "fit_budget",
    "label",
    "load",
    "predict",
    "report",
    "serve",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    # Imported on first use (PEP 562): `distilkit --help` must not wait for torch.
    if name not in LAZY_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LAZY_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
