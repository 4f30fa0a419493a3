"""distilkit's part of the benchmarks: every call of its Python API that is measured stands here."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from benchmarks.common import SEED, Options, device
from benchmarks.competitors import ALPHA, BATCH, Work
from distilkit import DistillConfig, Run, distill, distill_many
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import predict_texts
from distilkit.engine.training.losses import DistillationLoss
from distilkit.hardware.cpu_formats import workload_of
from distilkit.hardware.precision import resolve_precision


def teacher_logits(
    model: Any, tokenizer: Any, texts: Sequence[str], *, max_length: int = 128, precision: Any = "auto"
) -> Tensor:
    """Logits of `texts`, float32 `[N, C]`, computed anew: nothing is read from a cache."""
    parts = predict_texts(
        model,
        tokenizer,
        Texts(texts),
        range(len(texts)),
        max_length=max_length,
        precision=resolve_precision(precision, device(), workload_of(model, training=False)),
    )
    return torch.cat([logits for _, logits in parts])


def first_loss(work: Work, logits: Tensor) -> float:
    """distilkit's loss of the first batch of `work`, whose students have no dropout, in fp32."""
    batch = work.collate(work.cut(BATCH).examples())["student"]
    labels = batch.pop("labels")
    with torch.no_grad():
        student_logits = work.fresh_student().cpu()(**batch).logits
    targets = {"labels": labels, "teacher_logits": logits[:BATCH]}
    return float(DistillationLoss(alpha=ALPHA)(student_logits, targets).total)


@dataclass(frozen=True)
class Made:
    """What is kept of a run: its last epoch's speed and mean loss, its rows and the student's parameters."""

    examples_per_second: float
    loss: float
    rows: int
    parameters: int


def distill_once(
    options: Options, run: Path, *, keep: Path | None = None, epochs: int = 1, **settings: Any
) -> Made:
    """`distill` on SST-2 at alpha 0.5, in this process, with the cache as it is.

    Args:
        run: the teacher's.
        keep: folder that receives the student's sizes and tokenizer, for the other tools.
        settings: further fields of `DistillConfig`.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = distill(
            student_config(
                options,
                run,
                Path(folder) / "run",
                alpha=ALPHA,
                epochs=epochs,
                max_train_samples=options.rows,
                seed=SEED,
                **settings,
            )
        )
        if keep:
            AutoConfig.from_pretrained(made.model_path).save_pretrained(keep)
            AutoTokenizer.from_pretrained(made.model_path).save_pretrained(keep)
        last = made.history[-1]
        return Made(
            examples_per_second=last["examples_per_second"],
            loss=last["loss"],
            rows=made.environment["dataset"]["rows"]["train"],
            parameters=made.metrics["parameters"],
        )


def student_config(options: Options, run: Path, output_dir: Path, **settings: Any) -> DistillConfig:
    """A student of `run` on SST-2, a BiLSTM with words of its own: the tutorials' network has no others'."""
    if settings.get("student", "bilstm") == "bilstm":
        settings = {"vocabulary": "words"} | settings
    return DistillConfig(
        dataset="sst2",
        data_dir=options.data / "sst2",
        teacher=(str(run),),
        output_dir=output_dir,
        **settings,
    )


def together(configs: Sequence[DistillConfig]) -> list[Run]:
    """Several students of one dataset and teacher in one process."""
    return distill_many(configs)
