"""Write the answers to GLUE's hidden test split in the format of gluebenchmark.com."""

from dataclasses import dataclass
from pathlib import Path

import torch

from distilkit.config import GLUE_FILES, EvaluateConfig
from distilkit.data import sources
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import check_finite
from distilkit.errors import pluralize
from distilkit.hardware.precision import Resolved
from distilkit.models.classifier import Classifier
from distilkit.progress import Reporter
from distilkit.runs.folder import write_text
from distilkit.workflows.evaluation.scoring import read_all


@dataclass(frozen=True)
class HiddenRows:
    """Hold the rows of the test split, without their labels, and the name of the file for the answers."""

    texts: Texts
    file: str


def read_hidden(config: EvaluateConfig) -> HiddenRows | None:
    """Read the rows that --glue-submission needs.

    Raises:
        UserError: when the data has no test split.
    """
    if not config.glue_submission:
        return None
    assert config.dataset
    return HiddenRows(sources.read_texts(config, "test"), GLUE_FILES[config.dataset])


def write_submission(
    folder: Path,
    classifier: Classifier,
    class_order: list[int],
    hidden: HiddenRows,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
) -> Path:
    """Write `SST-2.tsv` or `MRPC.tsv`: `index` and `prediction`, a class id, for the rows of the test split.

    Args:
        class_order: the model's output for each class of the data.
    """
    rows = len(hidden.texts)
    model: torch.nn.Module = classifier.model
    logits = read_all(
        model.to(device),
        classifier,
        hidden.texts,
        precision,
        advance=lambda done: reporter.advance("GLUE test", done, rows),
    )
    check_finite(logits, classifier.name, "test", precision)
    model.cpu()
    answers = logits[:, class_order].argmax(dim=1).tolist()
    lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in enumerate(answers))]
    file = folder / hidden.file
    write_text(file, "\n".join(lines) + "\n")
    reporter.note(
        f"written: {file}, {pluralize(rows, 'answer')}; the labels are hidden, so nothing is scored"
    )
    return file
