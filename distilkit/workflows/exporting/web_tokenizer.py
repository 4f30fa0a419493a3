"""A tokenizer as data for tokenizer.js, which reads texts in a browser as the `tokenizers` library does."""

import json
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from distilkit.data.texts import Texts
from distilkit.errors import UserError

LAST, SURROGATES, HANGUL = 0x10FFFF, range(0xD800, 0xE000), range(0xAC00, 0xD7A4)
BLOCK = 256  # characters that are looked at together
KINDS = ("WordLevel", "WordPiece")
ADDED_OPTIONS = ("single_word", "lstrip", "rstrip", "normalized")  # of added tokens; none may be set
NODE_SECONDS = 300
# Reads rows of texts as JSON from stdin, a line each, and answers with their ids and type ids.
NODE_SCRIPT = """
const { Tokenizer } = require(process.argv[1] + "/tokenizer.js");
require(process.argv[1] + "/data.js");
const tokenizer = new Tokenizer(globalThis.distilkit.tokenizer);
for (const line of require("fs").readFileSync(0, "utf8").split("\\n")) {
  if (!line) continue;
  const { ids, typeIds } = tokenizer.encode(...JSON.parse(line));
  console.log(JSON.stringify([ids, typeIds]));
}
"""


def check_readable(backend: Backend, name: str) -> None:
    """Refuse a tokenizer that tokenizer.js does not read.

    Args:
        name: what the user calls the model.

    Raises:
        UserError: when it is not one of words, or of word-pieces as BERT has them.
    """
    parts = json.loads(backend.to_str())
    kinds = [(parts[key] or {}).get("type") for key in ("normalizer", "pre_tokenizer", "model")]
    is_plain = not any(token[option] for token in parts["added_tokens"] for option in ADDED_OPTIONS)
    is_readable = kinds[:2] == ["BertNormalizer", "BertPreTokenizer"] and kinds[2] in KINDS
    if not is_readable or not is_plain or _read_template(parts["post_processor"]) is None:
        raise UserError(
            f"{name}: its tokenizer ({kinds[2]}) cannot run in a browser. --format web takes vocabularies of "
            "words and the word-pieces of BERT: distill the model into a student with --vocabulary words."
        )


def describe_tokenizer(backend: Backend, name: str) -> dict[str, Any]:
    """Return what tokenizer.js needs of a tokenizer that cuts texts. Raises as `check_readable`."""
    check_readable(backend, name)
    parts = json.loads(backend.to_str())
    model, is_pieces = parts["model"], parts["model"]["type"] == "WordPiece"
    template = _read_template(parts["post_processor"])
    assert template
    return {
        "vocabulary": sorted(model["vocab"].items(), key=lambda item: item[1]),
        "added": [[token["content"], token["id"]] for token in parts["added_tokens"]],
        "unknown": model["vocab"].get(model["unk_token"]),
        "prefix": model["continuing_subword_prefix"] if is_pieces else None,
        "maxCharacters": model["max_input_chars_per_word"] if is_pieces else None,
        **template,
        "maxLength": parts["truncation"]["max_length"],
        "cutsLeft": parts["truncation"]["direction"] == "Left",
        **describe_characters(backend),
    }


def _read_template(processor: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the ids and texts, "A" and "B", of a row in order, with type ids; none where unreadable."""
    kind = (processor or {}).get("type")
    if processor and kind == "BertProcessing":
        first, last = processor["cls"][1], processor["sep"][1]
        single = [[first, 0], ["A", 0], [last, 0]]
        return {"single": single, "pair": [*single, ["B", 1], [last, 1]]}
    if not processor or kind != "TemplateProcessing":
        return None

    def read(pieces: Iterable[Any]) -> Iterator[list[Any]]:
        for piece in pieces:
            if "Sequence" in piece:
                yield [piece["Sequence"]["id"], piece["Sequence"]["type_id"]]
            else:
                token = piece["SpecialToken"]
                for token_id in processor["special_tokens"][token["id"]]["ids"]:
                    yield [token_id, token["type_id"]]

    return {"single": list(read(processor["single"])), "pair": list(read(processor["pair"]))}


def describe_characters(backend: Backend) -> dict[str, Any]:
    """Return what a tokenizer does to each character of Unicode, read off the tokenizer itself.

    Ranges are sorted and flat: first, last, first, last and so on.
    """
    normalized: dict[int, str] = {}  # of characters that change
    pieces: dict[int, int] = {}  # into which a word with the character falls, where there are several
    for start in range(0, LAST + 1, BLOCK):
        codes = [code for code in range(start, start + BLOCK) if code not in SURROGATES]
        block = "".join(map(chr, codes))
        text = backend.normalizer.normalize_str(block)
        if text in (block, ""):  # as in most of Unicode
            normalized |= {} if text else dict.fromkeys(codes, "")
        else:
            normalized |= {code: backend.normalizer.normalize_str(chr(code)) for code in codes}
        if len(backend.pre_tokenizer.pre_tokenize_str(f"a{block}a")) > 1:
            pieces |= {code: len(backend.pre_tokenizer.pre_tokenize_str(f"a{chr(code)}a")) for code in codes}
    decomposes = all(normalized.get(code) == unicodedata.normalize("NFD", chr(code)) for code in HANGUL)
    return {
        "replacements": [
            [chr(code), text]
            for code, text in normalized.items()
            if text not in (chr(code), "", f" {chr(code)} ") and not (decomposes and code in HANGUL)
        ],
        "removed": _make_ranges(code for code, text in normalized.items() if not text),
        "spaced": _make_ranges(code for code, text in normalized.items() if text == f" {chr(code)} "),
        "decomposesHangul": decomposes,
        "white": _make_ranges(code for code, count in pieces.items() if count == 2),  # "a", "a"
        "punctuation": _make_ranges(code for code, count in pieces.items() if count == 3),
    }


def _make_ranges(codes: Iterable[int]) -> list[int]:
    ranges: list[int] = []
    for code in codes:
        if ranges and ranges[-1] == code - 1:
            ranges[-1] = code
        else:
            ranges += [code, code]
    return ranges


def check_in_node(folder: Path, backend: Backend, texts: Texts, name: str) -> bool:
    """Compare tokenizer.js with the library on real rows; return whether node is here to do so.

    Args:
        folder: holds tokenizer.js and data.js.
        name: what the user calls the model.

    Raises:
        UserError: when a row is read differently.
    """
    node = shutil.which("node")
    if not node:
        return False
    rows = list(texts.rows())
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    process = subprocess.run(
        [node, "-e", NODE_SCRIPT, str(folder.resolve())],
        input=lines,
        capture_output=True,
        encoding="utf-8",
        timeout=NODE_SECONDS,
    )
    if process.returncode:
        raise UserError(f"{name}: node cannot run its tokenizer.js: {process.stderr.strip()[-300:]}")
    for position, (row, line) in enumerate(zip(rows, process.stdout.splitlines(), strict=True), start=1):
        encoded = backend.encode(row[0], row[1] if len(row) > 1 else None)
        if json.loads(line) != [encoded.ids, encoded.type_ids]:
            raise UserError(
                f"{name}: its tokenizer reads row {position:,} differently in a browser. It cannot be "
                "exported with --format web."
            )
    return True
