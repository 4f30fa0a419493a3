"""New texts of SST-2: candidates of a masked language model, in batches and one at a time, and Tang's rules.

The model has MiniLM's body and a random head: how fast it is does not depend on what it says. Reading it is
outside everybody's clock. The other way masks one word of one sentence, runs the model on it and sorts what
it says of all positions' vocabulary, as the script that came with TinyBERT does.
"""

import argparse
import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertForMaskedLM

from benchmarks.common import (
    SEED,
    Options,
    Results,
    compare,
    device,
    measure,
    parse,
    quiet,
    sentences,
    synchronize,
)
from distilkit import AugmentConfig, augment
from distilkit.hardware.cpu_formats import workload_of
from distilkit.hardware.precision import resolve_precision
from distilkit.runs.locating import find_model
from distilkit.workflows.augmentation.masked_lm import MaskedLM
from distilkit.workflows.augmentation.rules import Words

TOP_K = 15


def masked_lm() -> tuple[Any, Any]:
    """MiniLM's body under a random head for its vocabulary, fp32, and its tokenizer."""
    folder = find_model("minilm").folder
    with quiet():
        torch.manual_seed(SEED)
        model = BertForMaskedLM(AutoConfig.from_pretrained(folder))
        body = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        model.bert.load_state_dict(body.state_dict())
        return model.to(device()).eval(), AutoTokenizer.from_pretrained(folder)


def one_at_a_time(model: Any, tokenizer: Any, texts: list[str]) -> int:
    """Candidates of every word of one piece, a forward pass each; how many words there were."""
    words = 0
    for text in texts:
        pieces = tokenizer.tokenize(text)
        for place, piece in enumerate(pieces):
            is_part = piece.startswith("##") or "".join(pieces[place + 1 : place + 2]).startswith("##")
            if is_part or not piece.isalnum():
                continue
            masked = ["[CLS]", *pieces[:place], "[MASK]", *pieces[place + 1 :], "[SEP]"]
            ids = torch.tensor([tokenizer.convert_tokens_to_ids(masked)], device=device())
            with torch.no_grad():
                scores = model(ids).logits[0, place + 1]
            best = torch.argsort(scores, descending=True)[:TOP_K].tolist()
            tokenizer.convert_ids_to_tokens(best)
            words += 1
    return words


def main(options: Options) -> None:
    results = Results("augmentation", options)
    model, tokenizer = masked_lm()
    texts, _ = sentences(options.data, options.rows)
    some = texts[: max(8, len(texts) // options.extra.fewer)]
    words = Words.of(texts)
    plain = copy.deepcopy(model)  # distilkit's copies get a hook
    chosen = resolve_precision("auto", device(), workload_of(model, training=False))
    made = {
        precision: MaskedLM("minilm", copy.deepcopy(model), tokenizer, words.vocabulary, precision)
        for precision in dict.fromkeys([chosen, "fp32"])
    }

    def batched(precision: Any) -> int:
        return len(made[precision].candidates(words, TOP_K)[0])

    ways: dict[str, Any] = {f"distilkit, {precision}": partial(batched, precision) for precision in made}
    other = "one masked sentence a forward pass, fp32"
    ways[other] = partial(one_at_a_time, plain, tokenizer, some)

    def rate(name: str) -> float:
        started = time.perf_counter()
        number = ways[name]()
        synchronize()
        return float(number / (time.perf_counter() - started))

    one_at_a_time(plain, tokenizer, some[:4])
    for one in made.values():
        one.candidates(words.take(np.arange(min(64, len(words)))), TOP_K)
    rates = measure({name: partial(rate, name) for name in ways}, options.repeats)
    for number, name in enumerate(made):
        results.add(
            compare(
                f"candidates of a masked language model, {name}",
                other,
                "words/s",
                rates[f"distilkit, {name}"],
                rates[other],
                target=8 if number == 0 else None,
                note=f"the other way measured on {len(some):,} of the sentences",
            )
        )
    tang(options, results)
    results.write()


def tang(options: Options, results: Results) -> None:
    """Rows a second of the rules of Tang et al., tagging aside, and seconds of the whole command."""
    rows = 2000 if options.quick else options.extra.tang_rows
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            found = augment(
                AugmentConfig(
                    dataset="sst2",
                    data_dir=options.data / "sst2",
                    max_train_samples=rows,
                    output=Path(folder) / f"{turn}.parquet",
                )
            )
            tried = found.rows + sum(found.dropped.values())
            speed = found.rows_per_second or 0.0
            results.row(
                "rules of Tang et al.",
                training_rows=found.sources,
                tried=tried,
                kept=found.rows,
                tried_per_s=round(speed * tried / found.rows),
                kept_per_s=round(speed),
                seconds_in_all=found.seconds,
            )


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fewer", type=int, default=8, help="the other way reads one of so many sentences (default: 8)"
    )
    parser.add_argument("--tang-rows", type=int, default=67349, help="for Tang's rules (default: all)")


if __name__ == "__main__":
    main(parse(__doc__, rows=1024, quick_rows=128, add=add))
