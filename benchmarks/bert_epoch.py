"""An epoch of distilling minilm into a random BERT of 4 layers x 312 on SST-2, batch of 32.

Training steps alone: tokenizing, validation and saving are outside everybody's clock. TextBrewer and the
Trainer run the teacher at every step; distilkit reads its logits, whose one-off cost is given beside it.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks import competitors
from benchmarks.common import (
    Options,
    Results,
    cache_folder,
    compare,
    load_teacher,
    measure,
    parse,
    sentences,
    synchronize,
    teacher,
)
from benchmarks.competitors import Trained, Work
from benchmarks.ours import Made, distill_once, first_loss, teacher_logits

LEARNING_RATE = 1e-4
TARGETS = {"TextBrewer GeneralDistiller, live teacher": 6.0, "Trainer, live teacher": 6.0}


def ours(options: Options, run: Path, **settings: Any) -> Made:
    """A run of distilkit's, in this process."""
    return distill_once(
        options,
        run,
        student="tinybert",
        init="random",
        learning_rate=LEARNING_RATE,
        batch_size=competitors.BATCH,
        max_eval_samples=64,
        **settings,
    )


def main(options: Options) -> None:
    results = Results("bert_epoch", options)
    run = teacher(options)
    model, tokenizer = load_teacher(run)
    with cache_folder(), tempfile.TemporaryDirectory() as folder:
        first = ours(options, run, keep=Path(folder))  # warms up and fills the cache too
        config = AutoConfig.from_pretrained(folder)
        texts, labels = sentences(options.data, options.extra.sample)
        work = Work(
            texts=texts,
            labels=labels,
            student=lambda: AutoModelForSequenceClassification.from_config(config),
            tokenizer=tokenizer,
            teacher=model,
            teacher_tokenizer=tokenizer,
            learning_rate=LEARNING_RATE,
        )
        parameters = sum(p.numel() for p in work.fresh_student().parameters())
        assert parameters == first.parameters, "the students differ"
        ways: dict[str, Any] = {
            "TextBrewer GeneralDistiller, live teacher": competitors.textbrewer,
            "Trainer, live teacher": competitors.trainer,
            "Trainer, live teacher, bf16": lambda part: competitors.trainer(part, bf16=True),
        }
        for way in ways.values():
            way(work.cut(64))
        last: dict[str, Trained] = {}

        def rate(name: str) -> float:
            last[name] = ways[name](work)
            return last[name].rows_per_second

        contenders: dict[str, Any] = {"distilkit": lambda: ours(options, run).examples_per_second}
        if options.extra.fp32:
            contenders["distilkit, --precision fp32"] = lambda: (
                ours(options, run, precision="fp32").examples_per_second
            )
        contenders |= {name: partial(rate, name) for name in ways}
        rates = measure(contenders, options.repeats)
    for name in [name for name in contenders if name != "distilkit"]:
        results.add(
            compare(
                "BERT 4x312 distillation epoch",
                name,
                "examples/s",
                rates["distilkit"],
                rates[name],
                target=TARGETS.get(name),
                note=f"on {len(texts):,} random rows" if name in ways else "",
            )
        )
    for name, trained in last.items():
        results.row("loss", tool=name, first_tenth=trained.ends[0], last_tenth=trained.ends[1])
    results.row("loss", tool="distilkit", mean=first.loss)
    results.fact("parameters of the student", parameters)
    results.fact("training rows of distilkit", first.rows)
    still = competitors.without_dropout(config)
    same = replace(work, student=lambda: AutoModelForSequenceClassification.from_config(still))
    logits = teacher_logits(model, tokenizer, texts[: competitors.BATCH])
    results.fact("loss of one batch, distilkit", first_loss(same, logits))
    for name, loss in competitors.first_losses(same, logits).items():
        results.fact(f"loss of one batch, {name}", loss)
    started = time.perf_counter()
    teacher_logits(model, tokenizer, texts)
    synchronize()
    results.fact(
        "sentences/s of the teacher, paid once", round(len(texts) / (time.perf_counter() - started), 1)
    )
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sample", type=int, default=1024, help="rows for tools with a live teacher")
    parser.add_argument("--fp32", action="store_true", help="distilkit in fp32 too")


if __name__ == "__main__":
    main(parse(__doc__, rows=8192, quick_rows=256, add=add))
