"""Tell whether a run was trained on the evaluated data: by content, as folders move and share names."""

from dataclasses import replace

import numpy as np

from distilkit.config import DataConfig, EvaluateConfig
from distilkit.config.fields import field_infos, replace_values
from distilkit.data import sources
from distilkit.data.labels import match_labels
from distilkit.data.text_data import TextData
from distilkit.errors import UserError
from distilkit.models.classifier import Classifier
from distilkit.runs.run import Run

VALIDATION = "validation"


def training_data_name(run: Run) -> str:
    """Return the name of the dataset that a run was trained on, as it was when it was trained."""
    return str(_recorded(run).get("name") or run.config.data_name)


def is_training_data(run: Run, classifier: Classifier, data: TextData, config: EvaluateConfig) -> bool:
    """Return whether the evaluated split belongs to the dataset that the run was trained on.

    That is so when the split, or the validation split beside it, has the contents that the run recorded.
    Where neither can be read as the run read it, names decide.
    """
    if config.data_dir is None and run.config.data_dir is None:  # both from the Hub
        return config.dataset == run.config.dataset
    recorded = _recorded_fingerprints(run)
    if VALIDATION not in recorded:
        return training_data_name(run) == data.name
    if _fingerprints(data, config.split, classifier) & set(recorded.values()):
        return True
    columns = {
        name: getattr(config, name)
        for name in ("dataset", "data_dir", "text_column", "text_pair_column", "label_column")
    }
    validation = _read_validation(replace_values(_data_config(run), **columns), classifier)
    if validation is None:
        return training_data_name(run) == data.name
    return bool(_fingerprints(validation, VALIDATION, classifier) & {recorded[VALIDATION]})


def has_changed(run: Run, classifier: Classifier, data: TextData) -> bool:
    """Return whether the validation split of a run's own data is not the one that the run recorded."""
    recorded = _recorded_fingerprints(run).get(VALIDATION)
    return recorded is not None and recorded not in _fingerprints(data, VALIDATION, classifier)


def count_recorded_rows(run: Run, split: str) -> int | None:
    """Return how many rows of a split the run recorded, or `None` where it recorded no number."""
    rows = _recorded(run).get("rows")
    count: int | None = rows.get(split) if isinstance(rows, dict) else None
    return count


def _recorded(run: Run) -> dict[str, object]:
    recorded = run.environment.get("dataset")
    return recorded if isinstance(recorded, dict) else {}


def _recorded_fingerprints(run: Run) -> dict[str, str]:
    fingerprints = _recorded(run).get("fingerprint")
    if not isinstance(fingerprints, dict):
        return {}
    return {split: value for split, value in fingerprints.items() if isinstance(value, str)}


def _data_config(run: Run) -> DataConfig:
    return DataConfig(**{name: getattr(run.config, name) for name in field_infos(DataConfig)})


def _read_validation(config: DataConfig, classifier: Classifier) -> TextData | None:
    try:
        return sources.load_for_evaluation(config, VALIDATION, [classifier.class_names])
    except UserError:
        return None


def _fingerprints(data: TextData, split: str, classifier: Classifier) -> set[str]:
    """Return the fingerprints that a run may have recorded of a split: with its class ids, or with no label.

    The run's ids are those of its model; the evaluated data may have its classes in another order.
    """
    fingerprints = {data.fingerprint(split), data.fingerprint(split, labels=False)}
    try:
        class_order, _ = match_labels(classifier.class_names, data.names, classifier.name)
    except UserError:
        return fingerprints
    labels = data.labels_of[split]
    model_labels = np.where(labels < 0, labels, np.asarray(class_order, np.int64)[labels])
    return fingerprints | {replace(data, labels_of={split: model_labels}).fingerprint(split)}
