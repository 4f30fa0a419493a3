"""The teacher's logits of SST-2 training sentences: distilkit and the ordinary ways to get them.

Tokenizing is inside everybody's clock, loading the model inside nobody's.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import competitors, ours
from benchmarks.common import (
    Options,
    Results,
    bert_flops,
    compare,
    device,
    load_teacher,
    measure,
    parse,
    peak,
    peak_of_layers,
    quiet,
    sentences,
    synchronize,
    teacher,
)

Way = Callable[[Sequence[str]], Tensor]
WHAT, OURS = "teacher logits", "distilkit"


def by_pipeline(model: Any, tokenizer: Any, batch_size: int) -> Way:
    """`transformers.pipeline`, raw logits of all classes in the order of their ids."""
    from transformers import pipeline

    with quiet():
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=device())
    ids = model.config.label2id

    def run(texts: Sequence[str]) -> Tensor:
        with quiet():
            found: Any = classify(
                list(texts),
                batch_size=batch_size,
                top_k=None,
                function_to_apply="none",
                truncation=True,
                max_length=competitors.MAX_LENGTH,
            )
        rows = [[entry["score"] for entry in sorted(row, key=lambda e: ids[e["label"]])] for row in found]
        return torch.tensor(rows)

    return run


def by_padded_loop(model: Any, tokenizer: Any) -> Way:
    """The loop anyone writes: batches of 32 in the order given, padded to their longest row, fp32."""

    def run(texts: Sequence[str]) -> Tensor:
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), competitors.BATCH):
                batch = tokenizer(
                    list(texts[start : start + competitors.BATCH]),
                    truncation=True,
                    max_length=competitors.MAX_LENGTH,
                    padding=True,
                    return_tensors="pt",
                ).to(device())
                parts.append(model(**batch).logits.cpu())
        return torch.cat(parts)

    return run


def main(options: Options) -> None:
    results = Results("teacher_logits", options)
    run = teacher(options)
    model, tokenizer = load_teacher(run)
    half, _ = load_teacher(run)
    half = half.to(torch.bfloat16)
    texts, _ = sentences(options.data, options.rows)
    some = texts[: options.extra.others]
    few = texts[: max(64, len(some) // options.extra.fewer)]
    ways: dict[str, tuple[Way, Sequence[str]]] = {
        OURS: (lambda texts: ours.teacher_logits(model, tokenizer, texts), texts),
        "transformers.pipeline, batch 32": (by_pipeline(model, tokenizer, 32), some),
        "transformers.pipeline, batch 1": (by_pipeline(model, tokenizer, 1), few),
        "transformers.pipeline, batch 32, bf16 weights": (by_pipeline(half, tokenizer, 32), some),
        "Trainer.predict, batch 32": (
            lambda texts: competitors.trainer_predict(model, tokenizer, texts)[0],
            some,
        ),
        "Trainer.predict, batch 32, bf16": (
            lambda texts: competitors.trainer_predict(model, tokenizer, texts, bf16=True)[0],
            some,
        ),
        "padded loop, batch 32": (by_padded_loop(model, tokenizer), some),
    }
    if options.extra.fp32:
        ways["distilkit, --precision fp32"] = (
            lambda texts: ours.teacher_logits(model, tokenizer, texts, precision="fp32"),
            texts,
        )
    logits: dict[str, Tensor] = {}

    def rate(name: str) -> float:
        way, rows = ways[name]
        started = time.perf_counter()
        logits[name] = way(rows)
        synchronize()
        return len(rows) / (time.perf_counter() - started)

    for way, _ in ways.values():
        way(texts[:64])
    peaks: dict[str, list[float]] = {"bf16": [peak("bf16")], "fp32": [peak("fp32")]}
    rates = measure({name: partial(rate, name) for name in ways}, options.repeats)
    peaks["bf16"].append(peak("bf16"))
    peaks["fp32"].append(peak("fp32"))
    for name in ways:
        if name == OURS:
            continue
        rows = ways[name][1]
        results.add(
            compare(
                WHAT,
                name,
                "sentences/s",
                rates[OURS],
                rates[name],
                target=8.5 if name == "transformers.pipeline, batch 32" else None,
                note="" if len(rows) == len(texts) else f"measured on {len(rows):,} of the sentences",
            )
        )
    reference = logits["padded loop, batch 32"]
    for name, found in logits.items():
        results.row(
            "logits",
            way=name,
            rows=len(found),
            largest_difference_from_ours=float((found - logits[OURS][: len(found)]).abs().max()),
            largest_difference_from_fp32_loop=float(
                (found[: len(reference)] - reference[: len(found)]).abs().max()
            ),
            same_class_as_fp32_loop=float(
                (found[: len(reference)].argmax(1) == reference[: len(found)].argmax(1)).float().mean()
            ),
        )
    encoded = tokenizer(texts, truncation=True, max_length=competitors.MAX_LENGTH)["input_ids"]
    lengths = [len(ids) for ids in encoded]
    flops = bert_flops(model.config, lengths) / len(lengths)
    results.fact("tokens per sentence", round(sum(lengths) / len(lengths), 2))
    results.fact("useful GFLOP per sentence", flops / 1e9)
    for precision, products in peaks.items():
        results.fact(f"matrix peak {precision}, GFLOP/s", max(products))
    results.fact("bf16 products of the teacher's own shapes, GFLOP/s", peak_of_layers(model.config))
    speed = sorted(rates[OURS])[len(rates[OURS]) // 2]
    results.add(
        compare(
            f"{WHAT}: share of the bf16 matrix peak",
            "fastest matrix product of the same run",
            "GFLOP/s",
            [value * flops / 1e9 for value in rates[OURS]],
            [max(peaks["bf16"])] * options.repeats,
            target=0.65,
            note="useful operations only: real tokens, no padding; tokenizing is in the time",
        )
    )
    results.fact("useful GFLOP/s of distilkit", speed * flops / 1e9)
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--others", type=int, default=4096, help="the others read so many (default: 4096)")
    parser.add_argument(
        "--fewer", type=int, default=8, help="batch 1 reads one of so many of those (default: 8)"
    )
    parser.add_argument("--fp32", action="store_true", help="distilkit in fp32 too")


if __name__ == "__main__":
    main(parse(__doc__, rows=8192, quick_rows=128, add=add))
