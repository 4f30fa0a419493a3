"""Models: importing this registers distilkit's own students with the Auto classes of transformers."""

from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from distilkit.models.static import StaticConfig, StaticForSequenceClassification

__all__ = [
    "BiLSTMConfig",
    "BiLSTMForSequenceClassification",
    "StaticConfig",
    "StaticForSequenceClassification",
]
