"""What each command can be told: a config class for each.

A field that is `None` has a default that depends on other fields; `resolve` fills it in. A field that means
nothing for the chosen student is refused when set, so that no option is silently without effect.
"""

from distilkit.config.augmentation import AugmentConfig
from distilkit.config.caching import CacheConfig, CachePruneConfig
from distilkit.config.common import DataConfig, FitConfig, Precision, TextsConfig, resolve
from distilkit.config.distillation import OWN_LAYERS, DistillConfig, DoctorConfig, Pooling
from distilkit.config.evaluation import FIDELITY, GLUE_FILES, LATENCIES, EvaluateConfig, gates
from distilkit.config.reporting import ReportConfig
from distilkit.config.training import TrainConfig

__all__ = [
    "FIDELITY",
    "GLUE_FILES",
    "LATENCIES",
    "OWN_LAYERS",
    "AugmentConfig",
    "CacheConfig",
    "CachePruneConfig",
    "DataConfig",
    "DistillConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "FitConfig",
    "Pooling",
    "Precision",
    "ReportConfig",
    "TextsConfig",
    "TrainConfig",
    "gates",
    "resolve",
]
