"""The answers to GLUE's hidden test split, as gluebenchmark.com takes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distilkit.config import GLUE_FILES, EvaluateConfig
from distilkit.data import sources
from distilkit.hardware.precision import Resolved
from distilkit.models.classifier import Classifier
from distilkit.progress import Reporter
from distilkit.runs import folder as run
from distilkit.workflows.evaluation.scoring import read_all


@dataclass(frozen=True)
class Hidden:
    """The rows of the test split, whose labels are not looked at, and the file that takes their answers."""

    texts: Any
    pairs: Any
    file: str


def read_hidden(config: EvaluateConfig) -> Hidden | None:
    """The rows that --glue-submission asks for. Raises `UserError` when they are not there."""
    if not config.glue_submission:
        return None
    assert config.dataset
    rows, _ = sources.read_split(config, "test")
    text, pair = sources.text_columns(config)
    return Hidden(rows[text], rows[pair] if pair else None, GLUE_FILES[config.dataset])


def submit(
    folder: Path,
    one: Classifier,
    columns: list[int],
    hidden: Hidden,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
) -> Path:
    """Write `SST-2.tsv` or `MRPC.tsv`: `index` and `prediction`, a class id, for the rows of the test split.

    Args:
        columns: the model's output for each class of the data.
    """
    rows = len(hidden.texts)
    model: torch.nn.Module = one.model
    logits = read_all(
        model.to(device),
        one,
        hidden.texts,
        hidden.pairs,
        precision,
        advance=lambda done: reporter.advance("GLUE test", done, rows),
    )
    model.cpu()
    answers = logits[:, columns].argmax(dim=1).tolist()
    lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in enumerate(answers))]
    file = folder / hidden.file
    run.write_text(file, "\n".join(lines) + "\n")
    reporter.note(f"written: {file}, {rows:,} answers; its labels are hidden, so nothing is scored")
    return file
