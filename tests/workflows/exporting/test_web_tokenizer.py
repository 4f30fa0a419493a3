"""A tokenizer in JavaScript: it reads every text as the library does, or is refused."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BAD, GOOD, tiny_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from distilkit import UserError
from distilkit.data.texts import Texts
from distilkit.models.vocabulary import word_tokenizer
from distilkit.reports.web_page import TEMPLATES
from distilkit.workflows.exporting import web_tokenizer
from distilkit.workflows.exporting.web_tokenizer import check_in_node, check_readable, describe_tokenizer

ExportModel = Callable[..., Path]
ODD = [
    *("", " ", "\t\r\n", "\u2028a\u0085b", "\x00\x07a\ufffd", "\u200b\u00ad\ufeffgood", "a\u00a0b\u3000c"),
    *("CAFÉ cafe\u0301", "İSTANBUL ΣΑΣ", "ß ŉ ﬁ", "\u1e9b\u0323", "한국어 각", "映画は良い", "\U0002f81a豈"),
    *("don't—stop…", "$5 + `x` ^_^ |~|", "«good»", "😀👨\u200d👩\u200d👧🇩🇪", "नमस्ते ก็ดี", "\u0634\u064f\u0643"),
    *("[UNK] [PAD]good[CLS] [sep]", "a[MASK]b", "[[SEP]]", "\U0001d165\U0001d16d\u0301\u0327\u07fd\u0898"),
    *("x" * 99, "x" * 100, "x" * 101, "good " * 200, "\U00010400\U0001e900", "\U000e0041\ue000\U0010ffff"),
]
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


def write_tokenizer(folder: Path, backend: Backend) -> Path:
    folder.mkdir(exist_ok=True)
    data = {"tokenizer": describe_tokenizer(backend, "model")}
    (folder / "data.js").write_text(f"globalThis.distilkit = {json.dumps(data)};")
    (folder / "tokenizer.js").write_bytes((TEMPLATES / "tokenizer.js").read_bytes())
    return folder


@needs_node
@pytest.mark.parametrize("kind", ["words", "pieces", "bert", "siamese", "bert_pairs"])
def test_rows_are_read_as_by_the_library(kind: str, export_model: ExportModel, tmp_path: Path) -> None:
    backend = Backend.from_file(str(export_model(kind) / "tokenizer.json"))
    folder = write_tokenizer(tmp_path / "web", backend)
    draw = random.Random(0)
    characters = [*"aAbé .,'-", "\u0301", "\u0323", *"".join(ODD)]
    mixed = ["".join(draw.choices(characters, k=draw.randint(1, 60))) for _ in range(300)]
    texts = [*GOOD, *BAD, *ODD, *mixed]
    pairs = draw.sample(texts, len(texts)) if kind in ("siamese", "bert_pairs") else None
    assert check_in_node(folder, backend, Texts(texts, pairs), "model")
    script = (folder / "data.js").read_text()
    (folder / "data.js").write_text(script.replace('"cutsLeft": false', '"cutsLeft": true'))
    backend.enable_truncation(16, direction="left")
    assert check_in_node(folder, backend, Texts(texts, pairs), "model")


@needs_node
@pytest.mark.parametrize("kind", ["words", "pieces"])
def test_every_character_of_unicode_is_read_as_by_the_library(kind: str, tmp_path: Path) -> None:
    """Unknown characters have one id, which hides what became of them: so words are compared here."""
    tokenizer: Any = (
        word_tokenizer(["a"], 10, pairs=False, max_length=8) if kind == "words" else tiny_tokenizer()
    )
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(8)
    folder = write_tokenizer(tmp_path / "web", backend)
    texts = [
        "a" + "b".join(chr(c) for c in range(s, s + 64)) for s in range(0, 0x110000, 64) if s >> 11 != 27
    ]
    script = """
        const { Tokenizer } = require(process.argv[1] + "/tokenizer.js");
        require(process.argv[1] + "/data.js");
        const tokenizer = new Tokenizer(globalThis.distilkit.tokenizer);
        const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
        console.log(JSON.stringify(texts.map((text) => tokenizer.split(tokenizer.normalize(text)))));
    """
    shown = subprocess.run(
        ["node", "-e", script, str(folder)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    for text, words in zip(texts, json.loads(shown.stdout), strict=True):
        normalized = backend.normalizer.normalize_str(text)
        expected = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]
        assert words == expected, f"from U+{ord(text[1]):04X}"


@needs_node
def test_a_row_that_is_read_differently_is_refused(export_model: ExportModel, tmp_path: Path) -> None:
    backend = Backend.from_file(str(export_model("words") / "tokenizer.json"))
    folder = write_tokenizer(tmp_path / "web", backend)
    script = (folder / "tokenizer.js").read_text()
    (folder / "tokenizer.js").write_text(
        script.replace("ids.push(id);\n      else", "ids.push(0);\n      else")
    )
    assert check_in_node(folder, backend, Texts(["good", "bad"]), "model")
    with pytest.raises(UserError, match="model: its tokenizer reads row 2 differently in a browser"):
        check_in_node(folder, backend, Texts(["good", "[UNK]"]), "model")
    (folder / "data.js").write_text("nonsense(")
    with pytest.raises(UserError, match="node cannot run its tokenizer"):
        check_in_node(folder, backend, Texts(["good"]), "model")


def test_without_node_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_tokenizer.shutil, "which", lambda name: None)
    assert not check_in_node(tmp_path, tiny_tokenizer().backend_tokenizer, Texts(["a"]), "model")


def change(backend: Backend, **parts: Any) -> Backend:
    return Backend.from_str(json.dumps(json.loads(backend.to_str()) | parts))


def test_tokenizers_that_have_no_javascript_are_refused() -> None:
    """They would read texts wrongly, and nothing on the page would show it."""
    backend = tiny_tokenizer().backend_tokenizer
    check_readable(backend, "model")
    bytes_of_gpt = Backend(models.BPE())
    bytes_of_gpt.pre_tokenizer = pre_tokenizers.ByteLevel()
    token = {"id": 0, "content": "a", "single_word": True, "lstrip": False, "rstrip": False}
    for foreign in (
        bytes_of_gpt,
        change(backend, normalizer={"type": "Lowercase"}),
        change(backend, pre_tokenizer={"type": "Whitespace"}),
        change(backend, post_processor=None),
        change(backend, added_tokens=[token | {"normalized": False, "special": False}]),
    ):
        with pytest.raises(UserError, match=r"model: its tokenizer \(\w+\) cannot run in a browser"):
            check_readable(foreign, "model")
