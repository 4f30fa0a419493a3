"""The answers to GLUE's hidden test split, as gluebenchmark.com takes them."""

from pathlib import Path

import torch

from distilkit import runs
from distilkit.config import GLUE_FILES, EvaluateConfig
from distilkit.data import datasets
from distilkit.data.datasets import TextData
from distilkit.data.labels import match_labels
from distilkit.engine.inference import predict_texts
from distilkit.engine.precision import Resolved
from distilkit.progress import Reporter
from distilkit.workflows.answering import Loaded


def submit(
    folder: Path,
    one: Loaded,
    config: EvaluateConfig,
    data: TextData,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
) -> Path:
    """Write `SST-2.tsv` or `MRPC.tsv`: `index` and `prediction`, a class id, for the rows of the test split.

    Its labels are hidden, and not looked at.
    """
    assert config.dataset
    rows, _ = datasets.read_split(config, "test")
    columns, _ = match_labels(one.names, data.names, one.source.name)
    texts = rows[data.text_column]
    pairs = rows[data.pair_column] if data.pair_column else None
    model = one.model.to(device)
    parts = predict_texts(
        model,
        one.tokenizer,
        texts,
        pairs,
        range(len(rows)),
        max_length=one.max_length,
        precision=precision,
        advance=lambda done: reporter.advance("GLUE test", done, len(rows)),
    )
    answers = torch.cat([logits for _, logits in parts])[:, columns].argmax(dim=1).tolist()
    model.cpu()
    lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in enumerate(answers))]
    file = folder / GLUE_FILES[config.dataset]
    runs.write_text(file, "\n".join(lines) + "\n")
    reporter.note(f"written: {file}, {len(rows):,} answers; its labels are hidden, so nothing is scored")
    return file
