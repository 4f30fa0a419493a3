"""The teachers of a `distill`: how much of them is loaded, and what they say of a split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilkit.config import DistillConfig
from distilkit.config.loss import choose_soft_loss
from distilkit.data.labels import list_pairs, match_labels
from distilkit.data.large import ArrayWriter
from distilkit.data.targets import softmax, to_logits
from distilkit.data.teacher_files import TeacherFile, cover, open_teacher_files
from distilkit.data.text_data import TextData
from distilkit.data.transfer import find_teacher_shards
from distilkit.engine.inference.logits import has_lstm, predict_texts
from distilkit.engine.inference.padding import check_batching
from distilkit.engine.teacher_logits.gathering import TeacherLogits, gather_teacher_logits
from distilkit.engine.teacher_logits.keys import describe_teacher, describe_teacher_file, teacher_key
from distilkit.engine.teacher_logits.shards import Keys
from distilkit.engine.teacher_logits.store import LogitStore
from distilkit.errors import UserError
from distilkit.hardware.cpu_formats import workload_of
from distilkit.hardware.device import default_device
from distilkit.hardware.precision import LogitFormat, Resolved, logit_format, resolve_precision
from distilkit.models.classifier import (
    Classifier,
    NamedTokenizer,
    load_classifier,
    load_named_tokenizer,
)
from distilkit.progress import Reporter
from distilkit.runs.cache import cache_root
from distilkit.runs.locating import find_model

STORED_ROWS = 1 << 20  # of a file, that are looked up and stored together


def load_teachers(config: DistillConfig, runs: bool) -> list[NamedTokenizer]:
    """Load as much of the teachers as is needed: nothing, a tokenizer, or everything.

    If they do not run, only the first is loaded, and only if the student starts from it.
    """
    takes_weights = config.init == "teacher"
    takes_tokenizer = config.vocabulary == "teacher" or (
        not config.has_word_vectors and config.init == "random"
    )
    names = config.teacher if runs else config.teacher[: takes_weights or takes_tokenizer]
    load = load_classifier if runs or takes_weights else load_named_tokenizer
    return [load(find_model(name)) for name in names]


def match_classes(teacher: Classifier, data: TextData, reporter: Reporter) -> list[int]:
    """Return the teacher's class for each class of the data, and report what is odd about the teacher.

    Raises:
        UserError: when they cannot be matched.
    """
    reporter.note_all(teacher.notes)
    who = f"the teacher {teacher.name}"
    class_order, by_name = match_labels(teacher.class_names, data.names, who)
    if not by_name:
        reporter.warn(
            f"labels: {who} and the data share no class names, so their ids are taken to be the same: "
            f"{list_pairs(teacher.class_names, data.names)}"
        )
    return class_order


def read_teacher_files(
    config: DistillConfig, class_names: Sequence[str] | None, reporter: Reporter
) -> list[TeacherFile]:
    """Read the files of `config`, for the data's classes, and report what they hold.

    Args:
        class_names: `None` where only the files know them.
    """
    files = open_teacher_files(config, class_names, transfer_shards=find_teacher_shards(config))
    for file in files:
        reporter.note_all(file.notes)
    if len(files) + len(config.teacher) > 1 and not all(file.has_logits for file in files):
        reporter.note("teachers: their mean is that of probabilities, as not all of them have logits")
    return files


def settle_soft_loss(config: DistillConfig, files: Sequence[TeacherFile]) -> DistillConfig:
    """Return `config` with the soft loss that the files allow: the KL where one holds no logits.

    Raises:
        UserError: where the MSE is asked for and there are no logits to compare.
    """
    without_logits = next((file for file in files if not file.has_logits), None)
    if without_logits and config.soft_loss == "mse" and config.runs_teacher:
        raise UserError(
            f"--soft-loss mse compares logits, and --teacher-file {without_logits.name} holds "
            f"{without_logits.kind}: a probability of 0 has no logit. Leave it out, or give --soft-loss kl."
        )
    return choose_soft_loss(config, has_logits=without_logits is None) if files else config


def keep_covered_rows(
    config: DistillConfig, data: TextData, files: Sequence[TeacherFile], reporter: Reporter
) -> TextData:
    """Return the data with the rows that every file has a target for, of all splits that are labelled.

    Raises:
        UserError: where rows are missing, unless `config.missing` lets them be left out.
    """
    for split in data.splits:
        if split != "validation" or "validation" not in data.labels_of:
            data, notes = cover(data, split, files, config.missing)
            reporter.note_all(notes)
    return data


@dataclass(frozen=True)
class TeacherEnsemble:
    """Label the rows of `data` with the weighted mean of several teachers' logits.

    Where a file holds no logits, it is the mean of the teachers' probabilities, as logarithms.

    Attributes:
        class_orders: per teacher its class for each class of the data (`match_classes`).
        files: teachers that are files, read for the data's classes; they come after the others.
    """

    config: DistillConfig
    teachers: Sequence[Classifier]
    class_orders: Sequence[list[int]]
    data: TextData
    reporter: Reporter
    files: Sequence[TeacherFile] = ()

    @cached_property
    def shares(self) -> list[float]:
        """Return the weight of each teacher in the mean; they add up to 1."""
        weights = self.config.teacher_weight or (1.0,) * (len(self.teachers) + len(self.files))
        return [weight / sum(weights) for weight in weights]

    @property
    def has_logits(self) -> bool:
        """Return whether all teachers have logits, and not probabilities alone."""
        return all(file.has_logits for file in self.files)

    @property
    def facts(self) -> list[dict[str, object]]:
        """Return the teachers as `environment.json` names them."""
        named = [(teacher.name, teacher.fingerprint) for teacher in self.teachers]
        named += [(file.name, file.fingerprint) for file in self.files]
        return [
            {"name": name, "fingerprint": fingerprint, "share": share}
            for (name, fingerprint), share in zip(named, self.shares, strict=True)
        ]

    def precision(self, i: int) -> Resolved:
        """Return the number format that teacher `i` computes its logits in."""
        model = self.teachers[i].model
        return resolve_precision(self.config.precision, default_device(), workload_of(model, training=False))

    def logit_format(self, i: int) -> LogitFormat:
        """Return the number format that the logits of teacher `i` turn out in."""
        is_recurrent = has_lstm(self.teachers[i].model)
        return logit_format(self.precision(i), default_device(), is_recurrent=is_recurrent)

    @cached_property
    def _keys(self) -> dict[str, Keys]:
        return {}

    def keys(self, split: str) -> Keys:
        """Return the cache keys of a split's rows, S16 `[N]`, which are hashed once."""
        if split not in self._keys:
            self._keys[split] = self.data.texts(split).key_array()
        return self._keys[split]

    def logits(self, split: str) -> Tensor:
        """Return the teachers' weighted mean logits, float32 `[N, C]`, in the data's order of classes."""
        rows = self.data.splits[split]
        if len(self.files) == 1 and not self.teachers and self.files[0].is_beside(rows):
            return self._read_beside(self.files[0], split)
        parts = [
            self._teacher_logits(i, self.keys(split), split)[:, class_order]
            for i, class_order in enumerate(self.class_orders)
        ]
        parts += [
            self._read_beside(file, split)
            if file.is_beside(rows)
            else self._file_logits(file, self.keys(split), split)
            for file in self.files
        ]
        if self.has_logits:
            mean = torch.zeros(len(rows), len(self.data.names))
            for share, part in zip(self.shares, parts, strict=True):
                mean += share * part
            return mean
        if len(parts) == 1:
            return parts[0]
        probabilities = np.sum(
            [share * softmax(part.numpy()) for share, part in zip(self.shares, parts, strict=True)], axis=0
        )
        return torch.from_numpy(to_logits(probabilities, np.ones(len(rows), bool)))

    def store(self, i: int) -> LogitStore:
        """Open the cache entry of teacher `i`."""
        teacher = self.teachers[i]
        assert self.config.max_length
        description = describe_teacher(
            teacher.name,
            teacher.model,
            teacher.tokenizer,
            teacher.fingerprint,
            self.config.max_length,
            self.logit_format(i),
        )
        return LogitStore(cache_root(), teacher_key(description), description)

    def check_batching(self, i: int, split: str) -> None:
        """Find out, once, how the rows of teacher `i` must be batched.

        Raises:
            UserError: when it cannot compute in this precision.
        """
        assert self.config.max_length
        note = check_batching(
            self.teachers[i].model,
            self.teachers[i].tokenizer,
            self.data.texts(split),
            max_length=self.config.max_length,
            precision=self.precision(i),
            device=default_device(),
            name=f"the teacher {self.teachers[i].name}",
        )
        if note:
            self.reporter.note(note)

    def _teacher_logits(self, i: int, keys: Keys, split: str) -> Tensor:
        """Return the logits of teacher `i`, float32 `[N, C]`, cached or computed."""
        teacher, max_length, precision = self.teachers[i], self.config.max_length, self.precision(i)
        name, kind = teacher.name, "" if split == "train" else f"{split} "
        assert max_length
        model: torch.nn.Module = teacher.model
        store = self.store(i)
        note = self.reporter.note

        def compute(positions: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
            self.check_batching(i, split)
            return predict_texts(
                model.to(default_device()),
                teacher.tokenizer,
                self.data.texts(split),
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
            precision=self.logit_format(i),
            waiting=lambda: note(f"teacher: another process is running {name}; waiting for its logits"),
        )
        model.cpu()
        self._report(gathered, f"{name}, logits of distinct {kind}rows", "computed")
        return gathered.logits

    def _read_beside(self, file: TeacherFile, split: str) -> Tensor:
        """Return the logits that stand beside the rows, float32 `[N, C]`: no cache has them."""
        rows = self.data.splits[split]
        writer = ArrayWriter(np.float32, (len(self.data.names),))
        for logits in file.read_beside(rows):
            writer.append(logits)
        self.reporter.note(f"teacher: {file.name}, targets beside {len(rows):,} {split} rows")
        return torch.from_numpy(writer.finish().values)

    def _file_logits(self, file: TeacherFile, keys: Keys, split: str) -> Tensor:
        """Return what a file says of the rows, as logits float32 `[N, C]`, cached or read."""
        data, kind = self.data, "" if split == "train" else f"{split} "
        columns = [column for column in (data.text_column, data.pair_column) if column]
        description = describe_teacher_file(
            file.name, file.class_names, file.fingerprint, file.kind, [*columns, *file.target_columns]
        )
        texts = data.texts(split)

        def look_up(positions: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
            for start in range(0, len(positions), STORED_ROWS):
                chunk = np.asarray(positions[start : start + STORED_ROWS], np.int64)
                yield chunk, torch.from_numpy(file.find(texts.take(chunk)).logits)

        gathered = gather_teacher_logits(
            keys,
            look_up,
            LogitStore(cache_root(), teacher_key(description), description),
            seed=self.config.seed,
            precision="fp32",
            waiting=lambda: self.reporter.note(f"teacher: another process is reading {file.name}"),
        )
        self._report(gathered, f"{file.name}, targets of distinct {kind}rows", "read")
        return gathered.logits

    def _report(self, gathered: TeacherLogits, what: str, verb: str) -> None:
        note = self.reporter.note
        checked = f" ({gathered.checked} spot-checked)" if gathered.checked else ""
        note(f"teacher: {what}: {gathered.cached:,} cached{checked}, {gathered.computed:,} {verb}")
        if gathered.damaged:
            note(f"cache: damaged shards not used, their rows {verb} again: {gathered.damaged}")
        if gathered.refused:
            note(f"cache: {gathered.refused}")
