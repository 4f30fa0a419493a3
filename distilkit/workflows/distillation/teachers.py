"""The teachers of a `distill`: how much of them is loaded, and what they say of a split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilkit.config import DistillConfig
from distilkit.data.files import read_through
from distilkit.data.labels import match_labels
from distilkit.data.text_data import TextData
from distilkit.engine.inference.logits import predict_texts
from distilkit.engine.teacher_logits.gathering import gather_teacher_logits
from distilkit.engine.teacher_logits.keys import describe_teacher, row_keys, teacher_key
from distilkit.engine.teacher_logits.store import LogitStore, cache_root
from distilkit.hardware.precision import Resolved, default_device
from distilkit.models.classifier import (
    Classifier,
    NamedTokenizer,
    load_classifier,
    load_named_tokenizer,
)
from distilkit.models.locating import find_model
from distilkit.progress import Reporter


def load_teachers(config: DistillConfig, runs: bool) -> list[NamedTokenizer]:
    """The teachers, as much of them as is needed: nothing, a tokenizer, or all.

    Where they do not run the first is loaded, and only where the student starts from it.
    """
    takes_weights = config.init == "teacher"
    takes_tokenizer = config.vocabulary == "teacher" or (
        config.student != "bilstm" and config.init == "random"
    )
    wanted = config.teacher if runs else config.teacher[: takes_weights or takes_tokenizer]
    load = load_classifier if runs or takes_weights else load_named_tokenizer
    return [load(find_model(name)) for name in wanted]


def match_classes(teacher: Classifier, data: TextData, reporter: Reporter) -> list[int]:
    """The teacher's class for each class of the data. Raises `UserError` where they cannot be matched."""
    who = f"the teacher {teacher.name}"
    columns, by_name = match_labels(teacher.class_names, data.names, who)
    if not by_name:
        reporter.note(
            f"labels: {who} and the data share no class names, so their ids are taken to be the same"
        )
    return columns


@dataclass(frozen=True)
class TeacherEnsemble:
    """Teachers that are loaded whole, and the data that they speak of.

    `columns` are each teacher's class for each class of the data (`match_classes`).
    """

    config: DistillConfig
    teachers: Sequence[Classifier]
    columns: Sequence[list[int]]
    data: TextData
    precision: Resolved
    reporter: Reporter

    @cached_property
    def shares(self) -> list[float]:
        """Of the teachers in the mean."""
        weights = self.config.teacher_weight or (1.0,) * len(self.teachers)
        return [weight / sum(weights) for weight in weights]

    @property
    def facts(self) -> list[dict[str, Any]]:
        """The teachers as `environment.json` names them."""
        return [
            {"name": teacher.name, "fingerprint": teacher.fingerprint, "share": share}
            for teacher, share in zip(self.teachers, self.shares, strict=True)
        ]

    def keys(self, split: str) -> list[bytes]:
        """What the logits of each row of a split are stored under."""
        pairs = self.data.pairs(split)
        texts = read_through(self.data.texts(split))
        return row_keys(texts, None if pairs is None else read_through(pairs))

    def answers(self, split: str) -> Tensor:
        """The weighted mean of the teachers' logits, float32 `[N, C]`, in the data's order of classes."""
        keys = self.keys(split)
        mean = torch.zeros(len(keys), len(self.data.names))
        for number, columns in enumerate(self.columns):
            mean += self.shares[number] * self._answers_of(number, keys, split)[:, columns]
        return mean

    def store(self, number: int) -> LogitStore:
        """What is on disk of one teacher's logits."""
        teacher = self.teachers[number]
        assert self.config.max_length
        description = describe_teacher(
            teacher.name,
            teacher.model,
            teacher.tokenizer,
            teacher.fingerprint,
            self.config.max_length,
            self.precision,
        )
        return LogitStore(cache_root(), teacher_key(description), description)

    def _answers_of(self, number: int, keys: list[bytes], split: str) -> Tensor:
        """One teacher's logits of a split, float32 `[N, C]`: stored ones, and computed ones."""
        teacher, max_length, precision = self.teachers[number], self.config.max_length, self.precision
        name, kind = teacher.name, "" if split == "train" else f"{split} "
        assert max_length
        model: torch.nn.Module = teacher.model
        store = self.store(number)
        note = self.reporter.note

        def compute(positions: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
            return predict_texts(
                model.to(default_device()),
                teacher.tokenizer,
                self.data.texts(split),
                self.data.pairs(split),
                positions,
                max_length=max_length,
                precision=precision,
                advance=lambda done: self.reporter.advance(f"teacher, {split}", done, len(positions)),
            )

        gathered = gather_teacher_logits(
            keys,
            compute,
            store,
            seed=self.config.seed,
            precision=precision,
            waiting=lambda: note(f"teacher: another process is running {name}; waiting for its logits"),
        )
        model.cpu()
        checked = f" ({gathered.checked} of them compared with the live teacher)" if gathered.checked else ""
        note(
            f"teacher: {name}, logits of {gathered.cached:,} distinct {kind}rows from the cache{checked}, "
            f"of {gathered.computed:,} computed"
        )
        if gathered.damaged:
            note(f"cache: damaged shards not used, their rows computed again: {gathered.damaged}")
        if gathered.refused:
            note(f"cache: {gathered.refused}")
        return gathered.logits
