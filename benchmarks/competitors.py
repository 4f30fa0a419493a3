"""How other tools distill: TextBrewer, a `transformers.Trainer` and the padded loop of tutorials.

Each is used as its own documentation shows, at its fair best: texts tokenized before the clock starts, rows
padded to the longest of their batch (the tutorial's loop: to 128), the teacher in eval mode and without
gradients, no evaluation, no logging. All minimise `0.5 * CE(labels) + 0.5 * MSE(teacher's logits)` with
clipping at 1.0 and a linear schedule (the tutorial's loop: neither), as distilkit does at alpha 0.5.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from benchmarks.common import SEED, device, quiet, synchronize

MAX_LENGTH, BATCH, ALPHA = 128, 32, 0.5


@dataclass(frozen=True)
class Trained:
    """One training by another tool: how fast, and the losses of its steps in order."""

    rows_per_second: float
    losses: list[float]

    @property
    def ends(self) -> tuple[float, float]:
        """Mean loss of the first and of the last tenth of the steps: it must go down."""
        tenth = max(1, len(self.losses) // 10)
        return sum(self.losses[:tenth]) / tenth, sum(self.losses[-tenth:]) / tenth


@dataclass(frozen=True)
class Work:
    """What every tool is given: the same rows, the same fresh student, the same teacher.

    Args:
        student: makes a student with new weights.
        tokenizer: the student's.
        teacher_tokenizer: the teacher's; the same object where both read the same ids.
    """

    texts: Sequence[str]
    labels: Sequence[int]
    student: Callable[[], nn.Module]
    tokenizer: Any
    teacher: nn.Module
    teacher_tokenizer: Any
    learning_rate: float

    def cut(self, rows: int) -> "Work":
        """The same with the first `rows` rows: to warm up."""
        return replace(self, texts=self.texts[:rows], labels=self.labels[:rows])

    def fresh_student(self) -> nn.Module:
        """A new student on the device, the same each time."""
        torch.manual_seed(SEED)
        return self.student().to(device())

    @property
    def shared_ids(self) -> bool:
        """Whether teacher and student read the same ids, so that one encoding serves both."""
        return self.tokenizer is self.teacher_tokenizer

    def examples(self) -> list[dict[str, Any]]:
        """Every row tokenized: the student's ids and the label, the teacher's ids where they differ."""
        rows = [
            {"student": {"input_ids": ids, "label": label}}
            for ids, label in zip(_ids(self.tokenizer, self.texts), self.labels, strict=True)
        ]
        if not self.shared_ids:
            for row, ids in zip(rows, _ids(self.teacher_tokenizer, self.texts), strict=True):
                row["teacher"] = {"input_ids": ids}
        return rows

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
        """A batch for the student (with `labels`) and one for the teacher, padded to their longest rows."""
        batch = {"student": dict(DataCollatorWithPadding(self.tokenizer)([row["student"] for row in rows]))}
        if not self.shared_ids:
            pad = DataCollatorWithPadding(self.teacher_tokenizer)
            batch["teacher"] = dict(pad([row["teacher"] for row in rows]))
        return batch


def without_dropout(config: Any) -> Any:
    """A copy of a model's config with which training computes what evaluation does."""
    still = copy.deepcopy(config)
    for name in ("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(still, name):
            setattr(still, name, 0.0)
    return still


def first_losses(work: Work, teacher_logits: Tensor) -> dict[str, float]:
    """The loss that each tool computes of one and the same batch, by a student without dropout.

    All must be the same number: it shows that the tools do the same work, and that the teacher whom they ask
    at every step answers what was computed beforehand.

    Args:
        work: whose students have no dropout.
        teacher_logits: float `[N, C]`, N at least a batch.
    """
    part = work.cut(BATCH)

    def logits(model: nn.Module, input_ids: Tensor) -> Tensor:
        found: Tensor = model(input_ids=input_ids, attention_mask=input_ids.ne(pad).long()).logits
        return found

    pad = part.tokenizer.pad_token_id
    looped = padded_loop(part, teacher_logits[:BATCH], logits, part.fresh_student())
    return {
        "padded loop": looped.losses[0],
        "TextBrewer": textbrewer(part).losses[0],
        "Trainer": trainer(part).losses[0],
        "Trainer, bf16": trainer(part, bf16=True).losses[0],
    }


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return ids


def textbrewer(work: Work) -> Trained:
    """One epoch of TextBrewer's `GeneralDistiller`: MSE of logits and cross-entropy of labels, live teacher.

    The optimizer is the caller's there; it is given torch's fastest, fused AdamW.
    """
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig  # type: ignore[import-untyped]
    from transformers import get_linear_schedule_with_warmup

    student, losses = work.fresh_student(), _Recorder()

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = work.collate(rows)
        return batch["student"] if work.shared_ids else batch

    loader: DataLoader[Any] = DataLoader(
        work.examples(),  # type: ignore[arg-type]
        batch_size=BATCH,
        shuffle=True,
        collate_fn=collate,
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=work.learning_rate, fused=True)
    with tempfile.TemporaryDirectory() as folder, quiet():
        distiller = GeneralDistiller(
            train_config=TrainingConfig(output_dir=folder, device=device()),
            distill_config=DistillationConfig(
                temperature=1, kd_loss_type="mse", kd_loss_weight=1 - ALPHA, hard_label_weight=ALPHA
            ),
            model_T=work.teacher,
            model_S=student,
            adaptor_T=lambda batch, outputs: {"logits": outputs.logits},
            adaptor_S=lambda batch, outputs: {"logits": outputs.logits, "losses": outputs.loss},
        )
        distiller.tb_writer = losses  # it reads every loss for its log, whether or not there is one
        started = time.perf_counter()
        with distiller:  # puts the teacher into eval mode
            distiller.train(
                optimizer,
                loader,
                num_epochs=1,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={
                    "num_warmup_steps": len(loader) // 10,
                    "num_training_steps": len(loader),
                },
                max_grad_norm=1.0,
            )
        synchronize()
        seconds = time.perf_counter() - started
    return Trained(len(work.texts) / seconds, losses.values("scalar/total_loss"))


class _Recorder:
    """Stands where TextBrewer writes to TensorBoard, and keeps the numbers."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, float]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._kept.append((name, value))

    def values(self, name: str) -> list[float]:
        return [value for kept, value in self._kept if kept == name]


class LiveTeacherTrainer(Trainer):
    """A Trainer whose loss asks the teacher at every step, as tutorials on distillation write it."""

    def __init__(self, teacher: nn.Module, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.teacher = teacher.eval()
        self.losses: list[Tensor] = []

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """`0.5 * CE(labels) + 0.5 * MSE(teacher's logits)` of a batch as `trainer_collator` makes it."""
        own = {name: value for name, value in inputs.items() if not name.startswith("teacher_")}
        outputs = model(**own)
        read = {
            name.removeprefix("teacher_"): value
            for name, value in inputs.items()
            if name.startswith("teacher_")
        }
        read = read or {name: value for name, value in own.items() if name != "labels"}
        with torch.no_grad(), self.accelerator.autocast():  # else a bf16 Trainer's teacher would run in fp32
            teacher_logits = self.teacher(**read).logits
        soft = mse_loss(outputs.logits.float(), teacher_logits.float())
        loss = ALPHA * outputs.loss + (1 - ALPHA) * soft
        self.losses.append(loss.detach())
        return (loss, outputs) if return_outputs else loss


def trainer(work: Work, *, bf16: bool = False) -> Trained:
    """One epoch of a `transformers.Trainer` with a live teacher: fused AdamW and clipping are its defaults.

    The seconds are its own `train_runtime`, which leaves its set-up out.
    """

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = work.collate(rows)
        read = {f"teacher_{name}": value for name, value in batch.get("teacher", {}).items()}
        return batch["student"] | read

    with tempfile.TemporaryDirectory() as folder, quiet():
        live = LiveTeacherTrainer(
            work.teacher,
            model=work.fresh_student(),
            args=_arguments(
                folder,
                bf16=bf16,
                learning_rate=work.learning_rate,
                num_train_epochs=1,
                warmup_steps=0.1,
                weight_decay=0.01,
                per_device_train_batch_size=BATCH,
                save_strategy="no",
                logging_strategy="no",
            ),
            train_dataset=work.examples(),
            data_collator=collate,
        )
        live.remove_callback(PrinterCallback)
        seconds = live.train().metrics["train_runtime"]
    return Trained(len(work.texts) / seconds, [float(loss) for loss in live.losses])


def _arguments(folder: str, **values: Any) -> TrainingArguments:
    on_cpu = device().type == "cpu"
    return TrainingArguments(
        output_dir=folder,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        **values,
    )


def trainer_predict(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], *, bf16: bool = False
) -> tuple[Tensor, float]:
    """Logits by `Trainer.predict` in its ordinary set-up, and seconds, tokenizing included."""
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as folder, quiet():
        started = time.perf_counter()
        rows = Dataset.from_dict({"text": list(texts)}).map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH),
            batched=True,
            remove_columns="text",
        )
        predictor = Trainer(
            model=copy.deepcopy(model),  # it changes the forward pass of its model
            args=_arguments(folder, bf16=bf16, per_device_eval_batch_size=BATCH),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        logits = torch.from_numpy(predictor.predict(rows).predictions)
        return logits.float(), time.perf_counter() - started


class PlainBiLSTM(nn.Module):
    """The BiLSTM of tutorials: one bidirectional `nn.LSTM` over all positions, padding among them.

    Layer by layer it has the sizes and the number of parameters of distilkit's (`BiLSTMConfig`); dropout too.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            num_layers=config.num_layers,
            batch_first=True,
            bidirectional=True,
        )
        self.hidden = nn.Linear(2 * config.hidden_size, config.head_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.head_size, len(config.id2label))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits, float `[N, C]`, of `input_ids` int64 `[N, L]`."""
        _, (states, _) = self.lstm(self.dropout(self.embeddings(input_ids)))
        both = torch.cat([states[-2], states[-1]], dim=1)
        return self.classifier(self.dropout(torch.relu(self.hidden(both))))  # type: ignore[no-any-return]


def padded_loop(
    work: Work, teacher_logits: Tensor, logits: Callable[[nn.Module, Tensor], Tensor], model: nn.Module
) -> Trained:
    """One epoch as the tutorial writes it: rows padded to 128, batches of 32, fp32, Adam, logits at hand.

    Args:
        teacher_logits: float `[N, C]`, computed beforehand.
        logits: `(model, input_ids) -> logits`.
    """
    ids = torch.full((len(work.texts), MAX_LENGTH), work.tokenizer.pad_token_id)
    for place, row in zip(ids, _ids(work.tokenizer, work.texts), strict=True):
        place[: len(row)] = torch.tensor(row)
    rows = TensorDataset(ids, torch.tensor(work.labels), teacher_logits)
    loader = DataLoader(rows, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=work.learning_rate)
    losses = []
    model.train()
    started = time.perf_counter()
    for batch in loader:
        input_ids, labels, targets = (part.to(device()) for part in batch)
        optimizer.zero_grad()
        found = logits(model, input_ids)
        loss = ALPHA * cross_entropy(found, labels) + (1 - ALPHA) * mse_loss(found, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Trained(len(work.texts) / (time.perf_counter() - started), losses)
