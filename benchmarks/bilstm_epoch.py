"""An epoch of BiLSTM distillation on SST-2, and a whole job of five epochs from an empty cache.

The same BiLSTM (sizes, vocabulary, batch of 32, loss) for everyone. An epoch is training steps alone:
tokenizing, validation and saving are outside everybody's clock. The job is the opposite for distilkit: its
clock runs from reading the data to the finished run, teacher included, while the Trainer is charged for its
training steps only.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import distilkit.models  # noqa: F401  # lets the Auto classes know the BiLSTM
from benchmarks import competitors
from benchmarks.common import (
    SEED,
    Options,
    Results,
    cache_folder,
    compare,
    device,
    load_teacher,
    measure,
    parse,
    sentences,
    teacher,
)
from benchmarks.competitors import PlainBiLSTM, Trained, Work
from benchmarks.ours import Made, distill_once, first_loss, teacher_logits

LEARNING_RATE = 1e-3
TUTORIAL = "padded tutorial loop (128, batch 32)"


def ours(options: Options, run: Path, **settings: Any) -> Made:
    """A run of distilkit's, in this process."""
    return distill_once(
        options,
        run,
        student="bilstm",
        pooling="last",  # as in the tutorials' network
        learning_rate=LEARNING_RATE,
        batch_size=competitors.BATCH,
        **settings,
    )


def main(options: Options) -> None:
    results = Results("bilstm_epoch", options)
    run = teacher(options)
    model, teacher_tokenizer = load_teacher(run)
    with cache_folder(), tempfile.TemporaryDirectory() as folder:
        sizes = Path(folder)
        first = ours(options, run, keep=sizes)  # warms up and fills the cache too

        def work(rows: int) -> Work:
            config = AutoConfig.from_pretrained(sizes)
            texts, labels = sentences(options.data, rows)
            return Work(
                texts=texts,
                labels=labels,
                student=lambda: AutoModelForSequenceClassification.from_config(config),
                tokenizer=AutoTokenizer.from_pretrained(sizes),
                teacher=model,
                teacher_tokenizer=teacher_tokenizer,
                learning_rate=LEARNING_RATE,
            )

        live, looped = work(options.extra.sample), work(options.extra.loop_sample)
        results.fact("training rows of distilkit", first.rows)
        epoch(options, results, run, live, looped)
        if options.extra.epochs:
            job(options, results, run, live, first.rows)
    results.write()


def epoch(options: Options, results: Results, run: Path, live: Work, looped: Work) -> None:
    """Examples per second of a training epoch, everyone in turns."""
    logits = teacher_logits(looped.teacher, looped.teacher_tokenizer, looped.texts)
    student = looped.fresh_student()
    config: Any = student.config
    torch.manual_seed(SEED)
    parameters = [sum(p.numel() for p in m.parameters()) for m in (student, PlainBiLSTM(config))]
    # torch keeps two bias vectors in each LSTM direction, in both models.
    assert parameters[0] == parameters[1], f"the students differ: {parameters} parameters"
    last: dict[str, Trained] = {}

    def plain(part: Work) -> Trained:
        torch.manual_seed(SEED)
        fresh = PlainBiLSTM(config).to(device())
        return competitors.padded_loop(part, logits[: len(part.texts)], lambda m, ids: m(ids), fresh)

    def same_model(part: Work) -> Trained:
        return competitors.padded_loop(
            part, logits[: len(part.texts)], lambda m, ids: m(input_ids=ids).logits, part.fresh_student()
        )

    others = {
        TUTORIAL: (plain, looped),
        "the same loop around distilkit's model, which skips padding": (same_model, looped),
        "TextBrewer GeneralDistiller, live teacher": (competitors.textbrewer, live),
        "Trainer, live teacher": (competitors.trainer, live),
        "Trainer, live teacher, bf16": (lambda part: competitors.trainer(part, bf16=True), live),
    }
    for way, part in others.values():
        way(part.cut(64))
    made: dict[str, Made] = {}

    def our_rate(name: str, precision: str) -> float:
        made[name] = ours(options, run, precision=precision)
        return made[name].examples_per_second

    def rate(name: str) -> float:
        way, part = others[name]
        last[name] = way(part)
        return last[name].rows_per_second

    contenders: dict[str, Any] = {"distilkit": lambda: our_rate("distilkit", "auto")}
    if options.extra.fp32:
        contenders["distilkit, --precision fp32"] = lambda: our_rate("distilkit, --precision fp32", "fp32")
    contenders |= {name: partial(rate, name) for name in others}
    rates = measure(contenders, options.repeats)
    for name in [name for name in contenders if name != "distilkit"]:
        results.add(
            compare(
                "BiLSTM distillation epoch",
                name,
                "examples/s",
                rates["distilkit"],
                rates[name],
                target=12 if name == TUTORIAL else None,
                note=f"on {len(others[name][1].texts):,} random rows" if name in others else "",
            )
        )
    for name, trained in last.items():
        results.row("loss", tool=name, first_tenth=trained.ends[0], last_tenth=trained.ends[1])
    results.row("loss", tool="distilkit", mean=made["distilkit"].loss)
    still = competitors.without_dropout(config)
    same = replace(looped, student=lambda: AutoModelForSequenceClassification.from_config(still))
    results.fact("loss of one batch, distilkit", first_loss(same, logits))
    for name, loss in competitors.first_losses(same, logits).items():
        results.fact(f"loss of one batch, {name}", loss)
    results.fact("parameters of the BiLSTM", parameters[0])
    with torch.no_grad():
        ids = live.teacher_tokenizer(list(looped.texts[:64]), padding=True, return_tensors="pt").to(device())
        difference = float((live.teacher(**ids).logits.cpu() - logits[:64]).abs().max())
    results.fact("largest difference between the live teacher's logits and distilkit's", difference)


def job(options: Options, results: Results, run: Path, live: Work, total: int) -> None:
    """Seconds of a distillation of several epochs: distilkit's whole command, the Trainer's steps."""
    epochs = options.extra.epochs

    def our_seconds() -> float:
        with cache_folder():
            started = time.perf_counter()
            ours(options, run, epochs=epochs)
            return time.perf_counter() - started

    def their_seconds(bf16: bool) -> float:
        return float(epochs * total) / competitors.trainer(live, bf16=bf16).rows_per_second

    names = {"Trainer, live teacher": False, "Trainer, live teacher, bf16": True}
    contenders: dict[str, Any] = {"distilkit": our_seconds}
    contenders |= {name: partial(their_seconds, bf16) for name, bf16 in names.items()}
    seconds = measure(contenders, options.repeats)
    for name, bf16 in names.items():
        results.add(
            compare(
                f"BiLSTM distillation of {epochs} epochs, logits included",
                name,
                "s",
                seconds["distilkit"],
                seconds[name],
                less_is_better=True,
                target=None if bf16 else 10,
                note=f"the Trainer's steps on {len(live.texts):,} random rows, scaled to "
                f"{epochs} x {total:,}; its tokenizing, evaluation and saving are free, distilkit's count",
            )
        )


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sample", type=int, default=1024, help="rows for tools with a live teacher")
    parser.add_argument("--loop-sample", type=int, default=4096, help="rows for the padded loop")
    parser.add_argument("--epochs", type=int, default=0, help="also measure a whole job of so many epochs")
    parser.add_argument("--fp32", action="store_true", help="distilkit in fp32 too")


if __name__ == "__main__":
    main(parse(__doc__, rows=None, quick_rows=512, add=add))
