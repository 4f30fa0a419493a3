"""`distill`: train students on the teachers' logits and the labels."""

import gc
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from distilkit.config import DistillConfig, resolve
from distilkit.data import transfer
from distilkit.data.datasets import TextData
from distilkit.data.encoding import NO_LABEL, Encoded, Tokenizer
from distilkit.data.files import read_through
from distilkit.data.labels import match_labels
from distilkit.engine.inference import predict_texts
from distilkit.engine.layers import LayerPair
from distilkit.engine.logit_store import LogitStore, cache_root
from distilkit.engine.loop import ChangingLoss
from distilkit.engine.losses import Losses, distillation_loss, formula
from distilkit.engine.precision import Resolved, default_device, make_accelerator, resolve_precision
from distilkit.engine.teacher_logits import describe_teacher, gather_teacher_logits, row_keys, teacher_key
from distilkit.errors import UserError
from distilkit.fields import field_infos, flag
from distilkit.models.bilstm import second_core
from distilkit.models.loading import find_model, fingerprint, load_tokenizer, load_trained, model_names
from distilkit.models.students import Student, Teacher, make_student
from distilkit.progress import SILENT, Reporter
from distilkit.runs import Run, check_output_dir
from distilkit.workflows import recipes
from distilkit.workflows.fitting import Job, encode_split, fit_into_run, fit_into_runs, within_reach
from distilkit.workflows.general import distill_general
from distilkit.workflows.lanes import all_well, one_thread, run_in_lanes
from distilkit.workflows.matching import Rows, pair_layers, shared_rows, with_layers

TOGETHER = 64  # students that are computed as one, at most


def distill(config: DistillConfig, reporter: Reporter = SILENT) -> Run:
    """Train `config.student` with `alpha * CE(labels) + (1 - alpha) * MSE(teachers' mean logits)`.

    With `soft_loss="kl"` it is the KL divergence at a temperature in the place of the MSE.

    A teacher runs once over a row, whatever is distilled from it later: its logits are kept on disk. With
    `alpha=1` it does not run. The validation split picks the epoch that is kept; the test split is never
    opened.

    The methods `tinybert` and `pkd` match layers with those of a teacher that runs beside the student, and
    `general` (`distill_general`) does nothing else.

    Returns:
        The run in `config.output_dir`.

    Raises:
        UserError: on anything wrong with the options, the data, the models or the output folder.
    """
    if config.method == "general":
        return distill_general(config, reporter)
    return distill_many([config], reporter)[0]


def distill_many(configs: Sequence[DistillConfig], reporter: Reporter = SILENT) -> list[Run]:
    """Distill several students that differ in alpha, in seed or in how they are trained.

    Data, encoding and teachers' logits are shared; every run is what `distill` would make of its config
    alone. On a CPU, BiLSTMs are trained side by side, one a core. On CUDA, those that differ only in alpha
    and seed are computed as one model (equal up to rounding; not in fp16). All others are trained one after
    the other.

    Args:
        configs: equal but for fields of the panels Loss, Training and Output (and in `precision`).

    Returns:
        The runs, in the order of `configs`.

    Raises:
        UserError: as `distill`. A BiLSTM that fails beside others lets them finish first; any other student
            ends the row.
    """
    _check_one_kind(configs)
    if any(config.method == "general" for config in configs):
        raise UserError("--method general makes one student at a time. Distill these one after the other.")
    for config in configs:
        check_output_dir(config.output_dir, config.overwrite)
    configs = [recipes.follow(config, reporter) if config.recipe else config for config in configs]
    _check_one_kind(configs)  # alpha 1 needs no text of the recipe's
    given, configs = configs, [resolve(config) for config in configs]
    shared = configs[0]
    precision = resolve_precision(shared.precision, default_device())
    hard = any(config.reads_labels for config in configs)
    soft = any(config.runs_teacher for config in configs)
    matching = any(config.method != "logits" for config in configs)
    teachers = _load_teachers(shared, soft or matching)
    known = [teacher for teacher in teachers if teacher.model]
    # Without training labels the teacher is the one who knows all classes.
    data = transfer.load(shared, labelled=hard, names=_names(known[0]) if known and not hard else None)
    for note in data.notes:
        reporter.note(note)
    columns = [_columns(teacher, data, reporter) for teacher in known]
    splits = [split for split in ("train", transfer.SPLIT) if split in data.splits]  # all to train on
    # The students' words are learned once; a lock, because all models take their seed from torch's.
    making = threading.Lock()

    def make(config: DistillConfig, tokenizer: Tokenizer | None = None) -> Student:
        columns = [column for split in splits for column in (data.texts(split), data.pairs(split) or [])]
        texts = itertools.chain.from_iterable(columns)
        with making, one_thread():  # orthogonal matrices are rounded as one thread does it
            set_seed(config.seed)
            return make_student(config, data.names, teachers[0] if teachers else None, texts, tokenizer)

    def pair(config: DistillConfig, student: Student) -> LayerPair | None:
        return None if config.method == "logits" else pair_layers(config, student, known[0])

    student = make(shared)
    reporter.note(f"student: {type(student.model).__name__}, {student.origin}")
    first = [(student, pair(shared, student))]
    readers = [(teacher.tokenizer, teacher.model) for teacher in known]
    readers.append((student.tokenizer, student.model))
    configs = [within_reach(one, config, readers) for one, config in zip(given, configs, strict=True)]
    shared = configs[0]
    accelerator = make_accelerator(precision)

    def encode_for(tokenizer: Tokenizer, model: PreTrainedModel) -> Rows:
        encoded = partial(encode_split, data, tokenizer, model, shared.max_length, reporter)
        return Rows(reduce(Encoded.followed_by, map(encoded, splits)), encoded("validation"))

    rows, validation_rows = encode_for(student.tokenizer, student.model)
    if matching:
        both = shared_rows(student, known[0], Rows(rows, validation_rows), encode_for)
    own, others = len(data.splits["train"]), len(rows) - len(data.splits["train"])
    mix = (own, max(1, round(shared.transfer_ratio * own))) if shared.transfer_ratio else None
    labels = torch.cat([data.labels("train"), torch.full((others,), NO_LABEL)]) if hard else None
    facts: dict[str, Any] = {}
    teacher_logits = None
    if soft:
        run = partial(_run_teachers, shared, known, columns, data, precision, reporter)
        answers = [run(split) for split in splits]
        facts["teachers"], teacher_logits = answers[0][0], torch.cat([logits for _, logits in answers])
        if "validation" not in data.labels_of:
            data = data.labelled("validation", run("validation")[1].argmax(dim=1))

    def prepare(number: int) -> tuple[Job, Encoded]:
        config = configs[number]
        if first and not number:
            own, layers = first.pop()
        else:
            own = make(config, student.tokenizer)
            layers = pair(config, own)
        train_rows = (both.train if config.method == "pkd" else rows).join(
            labels=labels if config.reads_labels else None,
            teacher_logits=teacher_logits if config.runs_teacher else None,
        )
        labelled_share = mix[0] / sum(mix) if mix and config.reads_labels else train_rows.labelled_share
        terms: dict[str, Any] = {
            "alpha": config.alpha,
            "alpha_end": config.alpha_end,
            "temperature": config.temperature,
            "labelled_share": labelled_share,
        }

        def loss(logits: Tensor, batch: dict[str, Tensor], progress: float = 0.0) -> Losses:
            known, taught = batch.get("labels"), batch.get("teacher_logits")
            return distillation_loss(logits, known, taught, progress=progress, **terms)

        job = Job(
            command="distill",
            config=config,
            data=data,
            model=own.model,
            tokenizer=own.tokenizer,
            loss=ChangingLoss(lambda progress: partial(loss, progress=progress)),
            formula=formula(**terms),
            precision=precision,
            labelled_share=labelled_share,
            mix=mix,
            facts={
                "student": {"class": type(own.model).__name__, "origin": own.origin},
                **(facts if config.runs_teacher else {}),
            },
        )
        return with_layers(job, layers, both) if layers else job, train_rows

    def train(number: int, reporter: Reporter, aside: Executor | None = None) -> Run:
        return fit_into_run(*prepare(number), validation_rows, accelerator, reporter, aside)

    def train_as_one(numbers: Sequence[int]) -> dict[int, Run | UserError]:
        """Half of them at a time where all do not fit, as often as need be."""
        try:
            if len(numbers) == 1:
                return {numbers[0]: train(numbers[0], reporter)}
            jobs, train_rows = zip(*map(prepare, numbers), strict=True)
            return dict(
                zip(numbers, fit_into_runs(jobs, train_rows, validation_rows, device, reporter), strict=True)
            )
        except UserError as error:
            return dict.fromkeys(numbers, UserError(str(error)))
        except torch.OutOfMemoryError:
            half = len(numbers) // 2
        jobs = train_rows = ()
        gc.collect()
        torch.cuda.empty_cache()
        reporter.note(f"memory: {len(numbers)} students do not fit together, trying {half} at a time")
        return train_as_one(numbers[:half]) | train_as_one(numbers[half:])

    device, small = accelerator.device, shared.student == "bilstm"
    if small and len(configs) > 1:
        names = [config.output_dir.name for config in configs]
        if stackable(device, precision):
            outcomes: dict[int, Run | UserError] = {}
            for numbers in _companies(configs):
                outcomes |= train_as_one(numbers)
            return all_well(names, [outcomes[number] for number in range(len(configs))])
        if device.type == "cpu":
            tasks = [(name, partial(train, number)) for number, name in enumerate(names)]
            return run_in_lanes(tasks, torch.get_num_threads(), reporter)
    if small and device.type == "cpu":  # on one core, and what can be done beside it on another
        aside = second_core() if torch.get_num_threads() > 1 else None
        encoder: Any = student.model.base_model
        encoder.at_once = aside is not None
        with one_thread():
            return [train(0, reporter, aside)]
    return [train(number, reporter) for number in range(len(configs))]


def stackable(device: torch.device, precision: Resolved) -> bool:
    """Whether several BiLSTMs are best computed as one model: on a GPU, which one leaves idle."""
    return device.type == "cuda" and precision != "fp16"


def _companies(configs: Sequence[DistillConfig]) -> list[list[int]]:
    """Numbers of the configs, those together that differ only in alphas, seed and where they go."""
    own = ("alpha", "alpha_end", "calibrate", "seed", "output_dir", "overwrite", "precision")
    names = [name for name in field_infos(DistillConfig) if name not in own]
    alike: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        alike.setdefault(repr([getattr(config, name) for name in names]), []).append(number)
    return [
        numbers[start : start + TOGETHER]
        for numbers in alike.values()
        for start in range(0, len(numbers), TOGETHER)
    ]


def _check_one_kind(configs: Sequence[DistillConfig]) -> None:
    if not configs:
        raise UserError("there is nothing to distill: give at least one config")
    for name, info in field_infos(DistillConfig).items():
        if info.json_schema_extra["panel"] in ("Loss", "Training", "Output") and name != "precision":
            continue
        values = [getattr(config, name) for config in configs]
        if other := [value for value in values if value != values[0]]:
            raise UserError(
                f"students that are distilled together share {flag(name)}, but here it is {values[0]!r} and "
                f"{other[0]!r}. Distill these one after the other."
            )
    folders = [config.output_dir.resolve() for config in configs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(f"--output-dir {twice[0]} is given for two students. Name a folder for each.")


def _load_teachers(config: DistillConfig, runs: bool) -> list[Teacher]:
    """The teachers, as much of them as is needed: nothing, a tokenizer, or all.

    Where they do not run the first is loaded, and only where the student starts from it.
    """
    takes_weights = config.init == "teacher"
    takes_tokenizer = config.vocabulary == "teacher" or (
        config.student != "bilstm" and config.init == "random"
    )
    wanted = config.teacher if runs else config.teacher[: takes_weights or takes_tokenizer]
    teachers = []
    for name in wanted:
        source = find_model(name)
        model = load_trained(source) if runs or takes_weights else None
        teachers.append(Teacher(source, load_tokenizer(source), model))
    return teachers


def _names(teacher: Teacher) -> tuple[str, ...]:
    assert teacher.model is not None
    return model_names(teacher.model)


def _columns(teacher: Teacher, data: TextData, reporter: Reporter) -> list[int]:
    """The teacher's class for each class of the data."""
    who = f"the teacher {teacher.source.name}"
    columns, by_name = match_labels(_names(teacher), data.names, who)
    if not by_name:
        reporter.note(
            f"labels: {who} and the data share no class names, so their ids are taken to be the same"
        )
    return columns


def _run_teachers(
    config: DistillConfig,
    teachers: Sequence[Teacher],
    columns: Sequence[list[int]],
    data: TextData,
    precision: Resolved,
    reporter: Reporter,
    split: str,
) -> tuple[list[dict[str, Any]], Tensor]:
    """The teachers as `environment.json` names them, and the weighted mean of their logits, `[N, C]`."""
    pairs = data.pairs(split)
    keys = row_keys(read_through(data.texts(split)), None if pairs is None else read_through(pairs))
    weights = config.teacher_weight or (1.0,) * len(teachers)
    mean, facts = torch.zeros(len(keys), len(data.names)), []
    for teacher, weight, own in zip(teachers, weights, columns, strict=True):
        assert teacher.model is not None
        share = weight / sum(weights)
        model_fingerprint = fingerprint(teacher.model)
        logits = _run_teacher(config, teacher, model_fingerprint, keys, data, precision, reporter, split)
        mean += share * logits[:, own]
        facts.append({"name": teacher.source.name, "fingerprint": model_fingerprint, "share": share})
    return facts, mean


def _run_teacher(
    config: DistillConfig,
    teacher: Teacher,
    model_fingerprint: str,
    keys: list[bytes],
    data: TextData,
    precision: Resolved,
    reporter: Reporter,
    split: str,
) -> Tensor:
    """One teacher's logits of the training rows, float32 `[N, C]`: stored ones, and computed ones."""
    name, max_length = teacher.source.name, config.max_length
    kind = "" if split == "train" else f"{split} "
    assert teacher.model is not None and max_length
    model: torch.nn.Module = teacher.model
    description = describe_teacher(name, model, teacher.tokenizer, model_fingerprint, max_length, precision)
    store = LogitStore(cache_root(), teacher_key(description), description)

    def compute(positions: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        return predict_texts(
            model.to(default_device()),
            teacher.tokenizer,
            data.texts(split),
            data.pairs(split),
            positions,
            max_length=max_length,
            precision=precision,
            advance=lambda done: reporter.advance(f"teacher, {split}", done, len(positions)),
        )

    gathered = gather_teacher_logits(
        keys,
        compute,
        store,
        seed=config.seed,
        precision=precision,
        waiting=lambda: reporter.note(f"teacher: another process is running {name}; waiting for its logits"),
    )
    model.cpu()
    checked = f" ({gathered.checked} of them compared with the live teacher)" if gathered.checked else ""
    reporter.note(
        f"teacher: {name}, logits of {gathered.cached:,} distinct {kind}rows from the cache{checked}, "
        f"of {gathered.computed:,} computed"
    )
    if gathered.damaged:
        reporter.note(f"cache: damaged shards not used, their rows computed again: {gathered.damaged}")
    if gathered.refused:
        reporter.note(f"cache: {gathered.refused}")
    return gathered.logits
