"""Raw text for general distillation: read, tokenized, joined and cut into chunks of one length."""

from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from numpy.typing import NDArray

from distilkit.data.encoding import Encoded, Tokenizer, input_names, padding_of, tokenized
from distilkit.data.files import read_lines
from distilkit.data.formats import split_name
from distilkit.data.sampling import DATA_SEED
from distilkit.data.texts import Texts
from distilkit.errors import UserError

TEXT = "text"
HUB = {"wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1")}
HELD_OUT = 2000  # chunks to validate on, at most; a hundredth where that is less


def read_corpus(names: Sequence[str]) -> datasets.Dataset:
    """Read the paragraphs of every `--corpus`, in order, in the column `text`; they stay on disk.

    Raises:
        UserError: naming what is no file, no text, or not to be had from the Hub.
    """
    return datasets.concatenate_datasets([_read(name) for name in names])


def _read(name: str) -> datasets.Dataset:
    file = Path(name)
    if name in HUB and not file.exists():
        repository, part = HUB[name]
        try:
            rows = datasets.load_dataset(repository, part, split="train")
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"--corpus {name} cannot be loaded from the Hub ({' '.join(str(error).split())[:200]}). "
                "Check the connection, or give a .txt file."
            ) from None
        return rows.select_columns([TEXT])
    if not file.is_file() or split_name(file)[1] != ".txt":
        what = "is no .txt file" if file.is_file() else "is not there"
        raise UserError(
            f"--corpus {name} {what}. Give a .txt file with a paragraph a line, or {', '.join(HUB)}."
        )
    rows = read_lines(file, TEXT)
    if not len(rows):
        raise UserError(f"--corpus {name}: there is no line in it.")
    return rows


def encode_chunks(
    tokenizer: Tokenizer,
    texts: Texts,
    *,
    max_length: int,
    model: torch.nn.Module,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[Encoded, Encoded]:
    """Join all texts, and cut them into rows of `max_length` tokens with the special tokens around each.

    Returns:
        The rows to train on, and a hundredth of them, at most 2000, to validate on: drawn at random, the
        same for every run.

    Raises:
        UserError: when there is too little text for two rows.
    """
    before, after = _frame(tokenizer)
    tokens, done = [np.empty(0, np.int32)], 0
    for output in tokenized(tokenizer, texts, add_special_tokens=False):
        tokens += [np.asarray(row, np.int32) for row in output["input_ids"]]
        done += len(output["input_ids"])
        advance(done)
    flat = np.concatenate(tokens)
    width = max_length - len(before) - len(after)
    if len(flat) <= width:
        raise UserError(
            f"--corpus: {len(flat):,} tokens are at most one chunk of --max-length {max_length}, and one has "
            "to be held out. Give more text."
        )
    bodies = [flat[start : start + width] for start in range(0, len(flat), width)]
    order = np.random.default_rng(DATA_SEED).permutation(len(bodies))
    held_out = min(HELD_OUT, max(1, len(bodies) // 100))
    names = input_names(tokenizer, model)

    def rows_of(positions: NDArray[np.int64]) -> Encoded:
        rows = [np.concatenate([before, bodies[position], after]) for position in np.sort(positions)]
        ids = torch.from_numpy(np.concatenate(rows))
        inputs = {"input_ids": ids, "token_type_ids": torch.zeros(len(ids), dtype=torch.uint8)}
        return Encoded(
            flat={name: inputs[name] for name in names},
            offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
            padding=padding_of(tokenizer, names),
        )

    return rows_of(order[held_out:]), rows_of(order[:held_out])


def _frame(tokenizer: Tokenizer) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the special tokens before and after a text."""
    whole = tokenizer("a")["input_ids"]
    body = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
    return np.asarray(whole[:start], np.int32), np.asarray(whole[start + len(body) :], np.int32)
