"""Models: importing this registers the BiLSTM with the Auto classes of transformers."""

from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification

__all__ = ["BiLSTMConfig", "BiLSTMForSequenceClassification"]
