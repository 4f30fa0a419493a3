"""What each command can be told: a config class for each.

A field that is `None` has a default that depends on other fields; `resolve` fills it in. A field that means
nothing for the chosen student is refused when set, so that no option is silently without effect.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilkit.config.augmentation import AugmentConfig
    from distilkit.config.budgeting import BudgetConfig
    from distilkit.config.caching import CacheConfig, CachePruneConfig
    from distilkit.config.data import DataConfig, Precision, TextsConfig, resolve
    from distilkit.config.distillation import DistillConfig, DoctorConfig
    from distilkit.config.evaluation import FIDELITY, GLUE_FILES, LATENCIES, EvaluateConfig, parse_gates
    from distilkit.config.exporting import ExportConfig
    from distilkit.config.fitting import FitConfig
    from distilkit.config.labelling import LabelConfig
    from distilkit.config.prediction import PredictConfig
    from distilkit.config.reporting import ReportConfig
    from distilkit.config.serving import ServeConfig
    from distilkit.config.student import DEFAULT_LAYERS, Pooling
    from distilkit.config.sweeping import SweepConfig, SweepReportConfig
    from distilkit.config.training import TrainConfig

LAZY_MODULES = {
    "AugmentConfig": "augmentation",
    "BudgetConfig": "budgeting",
    "CacheConfig": "caching",
    "CachePruneConfig": "caching",
    "DataConfig": "data",
    "DistillConfig": "distillation",
    "DoctorConfig": "distillation",
    "EvaluateConfig": "evaluation",
    "ExportConfig": "exporting",
    "FIDELITY": "evaluation",
    "FitConfig": "fitting",
    "GLUE_FILES": "evaluation",
    "LATENCIES": "evaluation",
    "LabelConfig": "labelling",
    "DEFAULT_LAYERS": "student",
    "Pooling": "student",
    "Precision": "data",
    "PredictConfig": "prediction",
    "ReportConfig": "reporting",
    "ServeConfig": "serving",
    "SweepConfig": "sweeping",
    "SweepReportConfig": "sweeping",
    "TextsConfig": "data",
    "TrainConfig": "training",
    "parse_gates": "evaluation",
    "resolve": "data",
}
__all__ = [
    "DEFAULT_LAYERS",
    "FIDELITY",
    "GLUE_FILES",
    "LATENCIES",
    "AugmentConfig",
    "BudgetConfig",
    "CacheConfig",
    "CachePruneConfig",
    "DataConfig",
    "DistillConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FitConfig",
    "LabelConfig",
    "Pooling",
    "Precision",
    "PredictConfig",
    "ReportConfig",
    "ServeConfig",
    "SweepConfig",
    "SweepReportConfig",
    "TextsConfig",
    "TrainConfig",
    "parse_gates",
    "resolve",
]


def __getattr__(name: str) -> Any:
    # Imported on first use (PEP 562): each class takes some milliseconds, and a command has one.
    if name not in LAZY_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LAZY_MODULES[name]}"), name)
