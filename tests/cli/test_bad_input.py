"""Every mistake of a user's: exit code 2, one message that names it, and nothing left behind.

Each case is a command that works (`test_the_cases_differ_from_commands_that_work` holds that) with one thing
wrong. The output folder is always `deep/out`, whose parent does not exist either.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Answer, Call, MakeModel, rows, run_cli, tiny_bert, tiny_tokenizer, write_jsonl
from safetensors.torch import load_file

OUT = ("-o", "deep/out")
SMALL = ("--max-length", "16", "--epochs", "1")
STUDENT = ("distill", "-d", "sst2", "--data-dir", "data", "--alpha", "1", *SMALL, *OUT)
FROM_TEACHER = ("distill", "-d", "sst2", "--data-dir", "data", "--teacher", "teacher", *SMALL, *OUT)
FROM_LAYERS = (*FROM_TEACHER, "--student", "teacher", "--init", "teacher", "--method", "tinybert")
GENERAL = ("distill", "-t", "teacher", "--student", "teacher", "--method", "general", *SMALL, *OUT)
GENERAL += ("--corpus", "data/text.txt")
TEACHER = ("train", "-d", "sst2", "--data-dir", "data", "--model", "teacher", *SMALL, *OUT)
EVALUATE = ("evaluate", "teacher", "-d", "sst2", "--data-dir", "data", "--max-length", "16")
AUGMENT = ("augment", "-d", "sst2", "--data-dir", "data", "-o", "deep/out.parquet")
TINYBERT = (*AUGMENT, "--rule", "tinybert", "--candidates", "embeddings", "--embeddings", "teacher")
OWN = ("distill", "--data-dir", "data", "--alpha", "1", *SMALL, *OUT)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All there is under a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert_dir: Path) -> Path:
    """The working folder: `data` in SST-2's layout, and a trained `teacher`."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data" / "train.jsonl", rows())
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows(1))
    write_jsonl(tmp_path / "data" / "test.jsonl", [row | {"label": -1} for row in rows(1)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "data" / "text.txt").write_text("a truly great film\n" * 8, encoding="utf-8")
    shutil.copytree(bert_dir, tmp_path / "teacher")
    return tmp_path


@pytest.fixture
def call(here: Path, console: Call) -> Call:
    """`call("distill", ...)`, in the folder `here`."""
    return console


def check_refused(answer: Answer, named: Sequence[str]) -> None:
    assert answer.code == 2, answer
    assert answer.out == "", "stdout is for results"
    assert "Traceback" not in answer.err
    starts = [line for line in answer.err.splitlines() if line.startswith("error: ") or "─ Error ─" in line]
    assert len(starts) == 1, answer.err
    message = " ".join(answer.err.replace("│", " ").split())
    assert "Value error" not in message, "pydantic's words, or Typer's"
    for text in named:
        assert text in message


def refused(call: Call, here: Path, arguments: Sequence[str], *named: str) -> None:
    """Run a command that must be refused with a message that holds every text of `named`."""
    before = tree(here)
    answer = call(*arguments)
    check_refused(answer, named)
    assert tree(here) == before


@pytest.mark.parametrize(
    "command",
    [STUDENT, FROM_TEACHER, FROM_LAYERS, GENERAL, TEACHER, EVALUATE, AUGMENT, TINYBERT],
    ids=[
        "student",
        "from teacher",
        "from layers",
        "general",
        "train",
        "evaluate",
        "augment",
        "augment by neighbours",
    ],
)
def test_the_cases_differ_from_commands_that_work(command: tuple[str, ...], call: Call) -> None:
    """Else a case below could be refused for something other than what it is about."""
    sizes = ("--hidden-size", "4", "--embedding-size", "4") if command in (STUDENT, FROM_TEACHER) else ()
    answer = call(*command, *sizes, "--quiet")
    assert (answer.code, answer.out) == (0, ""), answer


# Flags ----------------------------------------------------------------------------------------------------

FLAGS: list[tuple[Sequence[str], tuple[str, ...]]] = [
    ((*STUDENT, "--alhpa", "0.5"), ("--alhpa", "--alpha")),
    (("distil", "-d", "sst2"), ("distil",)),
    ((*FROM_TEACHER, "--alpha", "1.5"), ("--alpha", "1.5")),
    ((*FROM_TEACHER, "--alpha", "nan"), ("--alpha", "nan")),
    ((*FROM_TEACHER, "--alpha-end", "1.5"), ("--alpha-end", "1.5")),
    ((*STUDENT, "--alpha-end", "0.5"), ("alpha 0.5", "--teacher", "no --alpha-end")),
    ((*FROM_TEACHER, "--soft-loss", "ce"), ("--soft-loss", "ce", "kl")),
    ((*FROM_TEACHER, "--temperature", "2"), ("--temperature 2", "--soft-loss kl")),
    ((*FROM_TEACHER, "--soft-loss", "kl", "--temperature", "0"), ("--temperature", "0")),
    ((*FROM_TEACHER, "--soft-loss", "kl", "--temperature", "nan"), ("--temperature", "nan")),
    ((*FROM_TEACHER, "--method", "bert"), ("--method", "bert", "tinybert")),
    ((*FROM_TEACHER, "--method", "tinybert"), ("--method tinybert", "bilstm", "--student tinybert")),
    ((*FROM_TEACHER, "--method", "pkd"), ("--method pkd", "bilstm", "--method logits")),
    ((*FROM_TEACHER, "--beta", "10"), ("--beta is for --method pkd, not logits",)),
    ((*FROM_TEACHER, "--layer-epochs", "2"), ("--layer-epochs is for --method tinybert, not logits",)),
    ((*FROM_LAYERS, "--beta", "10"), ("--beta is for --method pkd, not tinybert",)),
    ((*FROM_LAYERS, "--layer-epochs", "0"), ("--layer-epochs", "0")),
    ((*FROM_LAYERS, "--layer-learning-rate", "0"), ("--layer-learning-rate", "0")),
    ((*FROM_LAYERS, "--method", "pkd", "--layer-learning-rate", "1"), ("--layer-learning-rate is for",)),
    ((*FROM_LAYERS, "--method", "pkd", "--beta", "nan"), ("--beta", "nan")),
    ((*FROM_LAYERS, "--method", "pkd", "--layers", "1"), ("--method pkd", "--layers 2 or more")),
    ((*FROM_LAYERS, "--teacher", "other"), ("--method tinybert", "one teacher", "2 are given")),
    ((*FROM_LAYERS, "--corpus", "a.txt"), ("--corpus a.txt is for --method general",)),
    ((*FROM_LAYERS, "--method", "general", "--corpus", "a.txt"), ("--dataset means nothing", "general")),
    ((*GENERAL[:-2],), ("--method general", "--corpus FILE.txt")),
    ((*GENERAL, "--student", "bilstm"), ("--method general", "bilstm")),
    ((*GENERAL, "--corpus", "data/text.txt"), ("--corpus data/text.txt is given twice",)),
    ((*GENERAL, "--corpus", "nowhere.txt"), ("--corpus nowhere.txt: there is no such file", "wikitext-103")),
    ((*GENERAL, "--corpus", "data/train.jsonl"), ("--corpus data/train.jsonl is no .txt file",)),
    ((*GENERAL, "--max-length", "64"), ("--corpus", "--max-length 64", "Give more text")),
    ((*GENERAL, "--alpha", "0.5"), ("--alpha 0.5", "reads no labels")),
    ((*GENERAL, "--recipe", "auto"), ("--recipe means nothing",)),
    ((*GENERAL, "--alpha-end", "0.5"), ("--alpha-end means nothing",)),
    ((*GENERAL, "--soft-loss", "kl"), ("--soft-loss means nothing",)),
    ((*GENERAL, "--no-calibrate"), ("--calibrate means nothing",)),
    ((*GENERAL, "--max-train-samples", "8"), ("--max-train-samples means nothing",)),
    ((*GENERAL, "--transfer", "a.txt"), ("--transfer means nothing",)),
    ((*GENERAL, "--beta", "10"), ("--beta is for --method pkd, not general",)),
    ((*STUDENT, "--student", "distilbert", "--method", "pkd"), ("--method pkd", "one teacher, and 0")),
    ((*STUDENT, "--epochs", "0"), ("--epochs", "0")),
    ((*STUDENT, "--epochs", "2.5"), ("--epochs", "2.5")),
    ((*STUDENT, "--batch-size", "-1"), ("--batch-size", "-1")),
    ((*STUDENT, "--learning-rate", "abc"), ("--learning-rate", "abc")),
    ((*STUDENT, "--learning-rate", "inf"), ("--learning-rate", "inf")),
    ((*STUDENT, "--seed", "4294967296"), ("--seed", "4294967296")),
    ((*STUDENT, "--dropout", "1"), ("--dropout", "1")),
    ((*STUDENT, "--word-dropout", "1"), ("--word-dropout", "1")),
    ((*STUDENT, "--student", "tinybert", "--word-dropout", "0"), ("--word-dropout", "tinybert")),
    ((*STUDENT, "--pooling", "mean"), ("--pooling", "mean")),
    ((*STUDENT, "--student", "tinybert", "--pooling", "max"), ("--pooling", "tinybert")),
    (
        (*FROM_TEACHER, "--vocabulary", "teacher", "--embedding-size", "25"),
        ("--embedding-size 25", "teacher have 24", "--init random"),
    ),
    ((*STUDENT, "--precision", "int8"), ("--precision", "int8")),
    ((*STUDENT, "--dataset", "sst3"), ("--dataset", "sst3")),
    ((*STUDENT, "--max-length"), ("--max-length",)),
    (("distill", "--alpha", "1", *OUT), ("--dataset", "--data-dir")),
    (("distill", "-d", "sst2", "--data-dir", "data", *OUT), ("alpha 0.5", "--teacher")),
    (STUDENT[:-2], ("--output-dir is missing",)),
    (("evaluate", "-d", "sst2", "--data-dir", "data"), ("nothing to score", "--predictions")),
    ((*STUDENT, "--student", "tinybert", "--vocabulary", "words"), ("--vocabulary", "tinybert")),
    ((*STUDENT, "--student", "tinybert", "--hidden-size", "24"), ("--hidden-size 24", "--init random")),
    ((*STUDENT, "--init", "pretrained"), ("--init pretrained", "bilstm")),
    ((*EVALUATE, "--fail-under", "good"), ("--fail-under good", "METRIC=VALUE")),
    ((*EVALUATE, "--fail-under", "accuracy=high"), ("--fail-under accuracy=high",)),
    ((*EVALUATE, "--fail-under", "sharpness=0.5"), ("--fail-under sharpness=0.5", "accuracy")),
    ((*EVALUATE, "--fail-under", "agreement=0.5"), ("--fail-under agreement=0.5", "teacher")),
    ((*EVALUATE, "--split", "dev"), ("--split", "dev", "validation")),
    (AUGMENT[:-2], ("--output is missing",)),
    ((*AUGMENT, "-o", "deep/out.csv"), ("--output deep/out.csv", ".parquet")),
    ((*AUGMENT, "-o", "data"), ("--output data", ".parquet")),
    ((*AUGMENT, "--max-length", "16"), ("--max-length",)),
    ((*AUGMENT, "--rule", "eda"), ("--rule", "eda", "tang", "tinybert")),
    ((*AUGMENT, "--p-mask", "2"), ("--p-mask", "2")),
    ((*AUGMENT, "--p-mask", "0.7", "--p-pos", "0.4"), ("--p-mask 0.7", "--p-pos 0.4")),
    ((*AUGMENT, "--top-k", "5"), ("--top-k", "tinybert")),
    ((*AUGMENT, "--device", "cpu"), ("--device", "tinybert")),
    ((*TINYBERT, "--max-ngram", "5"), ("--max-ngram", "tang")),
    ((*TINYBERT, "--mlm", "teacher"), ("--mlm", "embeddings")),
    ((*AUGMENT, "--rule", "tinybert", "--candidates", "embeddings"), ("--embeddings", "glove")),
]


@pytest.mark.parametrize(("arguments", "named"), FLAGS, ids=[f"{a[0]} {' '.join(a[-2:])}" for a, _ in FLAGS])
def test_a_wrong_flag(arguments: Sequence[str], named: tuple[str, ...], call: Call, here: Path) -> None:
    refused(call, here, arguments, *named)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:one", "CPU", "1"])
def test_a_device_of_no_kind(name: str, call: Call, here: Path) -> None:
    refused(call, here, (*STUDENT, "--device", name), f"--device '{name}'", "cuda:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
@pytest.mark.parametrize("arguments", [STUDENT, TEACHER, EVALUATE, GENERAL])
def test_cuda_where_there_is_none(arguments: Sequence[str], call: Call, here: Path) -> None:
    refused(call, here, (*arguments, "--device", "cuda:0"), "--device cuda:0", "no CUDA device", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is fine here: there is CUDA")
def test_fp16_without_cuda(call: Call, here: Path) -> None:
    refused(call, here, (*STUDENT, "--precision", "fp16"), "--precision fp16")


# YAML -----------------------------------------------------------------------------------------------------

YAML: list[tuple[str | bytes | None, tuple[str, ...]]] = [
    ("- alpha\n- 0.5\n", ("holds a list",)),
    ("just words\n", ("holds a single value",)),
    ("alpha: [0.5\n", ("is not YAML",)),
    ("alpha: 0.5\n---\nalpha: 0.6\n", ("is not YAML",)),
    (b"alpha: \xff\xfe\n", ("cannot be read",)),
    (None, ("cannot be read",)),
    ("alhpa: 0.5\n", ("'alhpa'", "Did you mean 'alpha'?")),
    ("momentum: 2\n", ("'momentum'",)),
    ("max-length: 16\n", ("'max-length'", "'max_length'")),
    ("1: 2\n", ("'1' is not an option",)),
    ("batch_size: many\n", ("--batch-size", "'many'")),
    ("learning_rate: [1]\n", ("--learning-rate", "[1]")),
    ("dropout: .nan\n", ("--dropout", "nan")),
    ("student: 5\n", ("--student", "5")),
    ("overwrite: perhaps\n", ("--overwrite", "'perhaps'")),
    ("text_column: 2020\n", ("--text-column", "2020")),
]


@pytest.mark.parametrize(("content", "named"), YAML, ids=[repr(content) for content, _ in YAML])
def test_a_wrong_config_file(
    content: str | bytes | None, named: tuple[str, ...], call: Call, here: Path
) -> None:
    if content is not None:
        Path("c.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    refused(call, here, (*STUDENT, "--config", "c.yaml"), "c.yaml", *named)


# Data files -----------------------------------------------------------------------------------------------


def jsonl(*values: dict[str, Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


A, B = {"sentence": "a film", "label": 0}, {"sentence": "no film", "label": 1}
PARQUET = parquet(sentence=["a film", "no film"], label=[0, 1])
HEAD = b"sentence,label\n"

# The training split's file name, its content, and what the message names. Known dataset: sst2.
TRAIN_FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "missing text column": ("train.jsonl", jsonl({"txt": "a", "label": 0}), ("'sentence'", "--text-column")),
    "missing label column": ("train.jsonl", jsonl({"sentence": "a", "y": 0}), ("'label'", "--label-column")),
    "text of numbers": ("train.parquet", parquet(sentence=[1, 2], label=[0, 1]), ("sentence", "int64")),
    "text of lists": ("train.jsonl", jsonl(A | {"sentence": ["a"]}), ("sentence", "list")),
    "numbers among texts": ("train.jsonl", jsonl(A, B | {"sentence": 7}), ("sentence", "number")),
    "empty text": ("train.jsonl", jsonl(A, B | {"sentence": ""}), ("sentence, row 2",)),
    "blank text": ("train.csv", HEAD + b"a film,0\n  ,1\n", ("sentence, row 2",)),
    "null text": ("train.parquet", parquet(sentence=["a", None], label=[0, 1]), ("sentence, row 2",)),
    "missing key": ("train.jsonl", jsonl(A, {"label": 1}), ("sentence, row 2",)),
    "null label": ("train.jsonl", jsonl(A, B | {"label": None}), ("row 2", "label is missing")),
    "NaN label": (
        "train.parquet",
        parquet(sentence=["a", "b"], label=[0.0, float("nan")]),
        ("row 2", "label is missing"),
    ),
    "gap in the label column": ("train.csv", HEAD + b"a film,0\nno film,\n", ("row 2", "label is missing")),
    "fractional label": ("train.csv", HEAD + b"a film,0\nno film,0.5\n", ("row 2", "0.5")),
    "unknown label": ("train.jsonl", jsonl(A, B | {"label": 2}), ("row 2", "2", "negative, positive")),
    "unknown name": ("train.csv", HEAD + b"a,positive\nb,meh\n", ("row 2", "'meh'", "negative, positive")),
    "hidden label": ("train.jsonl", jsonl(A, B | {"label": -1}), ("row 2", "-1", "hidden")),
    "csv named parquet": ("train.parquet", HEAD + b"a film,0\n", ("not what its ending says",)),
    "parquet named csv": ("train.csv", PARQUET, ("not what its ending says",)),
    "parquet named jsonl": ("train.jsonl", PARQUET, ("not what its ending says",)),
    "parquet cut short": (
        "train.parquet",
        PARQUET[: len(PARQUET) // 2],
        ("incomplete or damaged", "download"),
    ),
    "csv named jsonl": ("train.jsonl", HEAD + b"a film,0\n", ("as jsonl",)),
    "text column twice": ("train.csv", b"sentence,sentence,label\na,b,0\nc,d,1\n", ("'sentence'",)),
    "label column twice": ("train.csv", b"sentence,label,label\na,0,1\nc,1,0\n", ("'label'",)),
    "tsv named csv": ("train.csv", b"sentence\tlabel\na film\t0\n", ("'sentence'",)),
    "broken jsonl line": ("train.jsonl", jsonl(A, B) + b'{"sentence": "a\n', ("as jsonl",)),
    "jsonl of arrays": ("train.jsonl", b'["a", 0]\n["b", 1]\n', ("as jsonl", "array")),
    "ragged csv": ("train.csv", HEAD + b"a film,0\na, comma,1\n", ("as csv", "row 2 has 3 columns")),
    "not UTF-8": (
        "train.csv",
        HEAD + "caf\u00e9,0\nno,1\n".encode("latin-1"),
        ("column sentence, row 1", "UTF-8", "iconv -f LATIN1"),
    ),
    "empty file": ("train.csv", b"", ("train.csv is empty",)),
    "empty jsonl": ("train.jsonl", b"", ("train.jsonl",)),
    "header only": ("train.csv", HEAD, ("no row",)),
    "no rows": (
        "train.parquet",
        parquet(sentence=pa.array([], pa.string()), label=pa.array([], pa.int64())),
        ("no row",),
    ),
}


@pytest.mark.parametrize(("name", "content", "named"), TRAIN_FILES.values(), ids=TRAIN_FILES)
def test_a_wrong_training_file(
    name: str, content: bytes, named: tuple[str, ...], call: Call, here: Path
) -> None:
    Path("data/train.jsonl").unlink()
    Path("data", name).write_bytes(content)
    refused(call, here, STUDENT, f"data/{name}", *named)


def test_both_csv_and_jsonl(call: Call, here: Path) -> None:
    Path("data/train.csv").write_bytes(HEAD + b"a film,0\n")
    refused(call, here, STUDENT, "train.csv", "train.jsonl")


def test_one_class_only(call: Call, here: Path) -> None:
    for split in ("train", "validation"):
        write_jsonl(here / f"data/{split}.jsonl", [{"text": "a", "label": "spam"}] * 4)
    refused(call, here, OWN, "data/train.jsonl", "'spam'")


def test_one_row_without_a_validation_split(call: Call, here: Path) -> None:
    Path("data/validation.jsonl").unlink()
    Path("data/train.jsonl").write_bytes(jsonl(A))
    refused(call, here, STUDENT, "data/train.jsonl", "one row")


def test_a_wrong_validation_file_is_found_before_training(call: Call, here: Path) -> None:
    Path("data/validation.jsonl").write_bytes(jsonl(A, B | {"label": 7}))
    refused(call, here, STUDENT, "data/validation.jsonl, row 2", "7")


@pytest.mark.parametrize("alpha", ["0", "1"])
def test_no_training_split(alpha: str, call: Call, here: Path) -> None:
    Path("data/train.jsonl").unlink()
    refused(call, here, (*FROM_TEACHER, "--alpha", alpha), "data has no train split", "test, validation")


def test_no_test_split_to_evaluate(call: Call, here: Path) -> None:
    Path("data/test.jsonl").unlink()
    refused(call, here, (*EVALUATE, "--split", "test"), "data has no test split")


def test_a_test_split_with_hidden_labels(call: Call, here: Path) -> None:
    refused(call, here, (*EVALUATE, "--split", "test"), "data/test.jsonl, row 1", "-1")


@pytest.mark.parametrize("what", ["missing", "empty", "file", "other files"])
def test_a_wrong_data_folder(what: str, call: Call, here: Path) -> None:
    shutil.rmtree("data")
    if what == "file":
        Path("data").write_bytes(PARQUET)
    elif what != "missing":
        Path("data").mkdir()
    if what == "other files":
        Path("data/reviews.csv").write_bytes(HEAD)
    refused(call, here, STUDENT, "--data-dir data", ".parquet")


@pytest.mark.parametrize("option", ["--text-column", "--text-pair-column", "--label-column"])
def test_a_column_that_is_not_there(option: str, call: Call, here: Path) -> None:
    refused(call, here, (*STUDENT, option, "nope"), ".jsonl: no column 'nope'", option, "'sentence', 'label'")


# Transfer text --------------------------------------------------------------------------------------------

SOFT = ("--alpha", "0")
TRANSFER_FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "no such column": ("more.jsonl", jsonl({"body": "a"}), ("more.jsonl: no column 'sentence'", "'text'")),
    "empty text": ("more.jsonl", jsonl(A, {"sentence": " "}), ("more.jsonl, column sentence, row 2",)),
    "numbers": ("more.parquet", parquet(sentence=[1, 2]), ("more.parquet", "int64")),
    "no row": ("more.txt", b"\n \n", ("more.txt: there is no row",)),
    "binary text": ("more.txt", b"a\0b", ("more.txt", "binary")),
    "not UTF-8": (
        "more.txt",
        "caf\u00e9".encode("latin-1"),
        ("more.txt, column sentence, row 1", "UTF-8", "iconv"),
    ),
    "csv named parquet": ("more.parquet", HEAD + b"a film,0\n", ("not what its ending says",)),
    "unknown ending": ("more.doc", b"a film\n", ("--transfer more.doc", ".txt")),
    "all in validation": ("more.txt", b"a great film\n", ("validation split",)),
}


@pytest.mark.parametrize(("name", "content", "named"), TRANSFER_FILES.values(), ids=TRANSFER_FILES)
def test_a_wrong_transfer_file(
    name: str, content: bytes, named: tuple[str, ...], call: Call, here: Path
) -> None:
    Path(name).write_bytes(content)
    refused(call, here, (*FROM_TEACHER, *SOFT, "--transfer", name), *named)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--transfer", "nowhere.txt"), ("--transfer nowhere.txt", "no such file")),
        (("--transfer", "empty"), ("--transfer empty", "no file with columns in this folder")),
        (("--transfer", "none-*.csv"), ("--transfer none-*.csv", "no file has such a name")),
        (("--transfer", "test"), ("--transfer test", "unsupervised")),
        (("--transfer", "unsupervised"), ("no unsupervised split",)),
        (("--transfer", "a.txt", "--transfer", "a.txt"), ("--transfer a.txt is given twice",)),
        (("--transfer", "a.txt", "--alpha", "1"), ("--transfer", "alpha 1")),
        (("--transfer-ratio", "2"), ("--transfer-ratio 2", "--transfer")),
        (("--transfer", "a.txt", "--transfer-ratio", "0"), ("--transfer-ratio", "greater than 0")),
        (("--transfer", "a.txt", "--text-pair-column", "label"), ("label",)),
    ],
)
def test_wrong_transfer_options(
    arguments: tuple[str, ...], named: tuple[str, ...], call: Call, here: Path
) -> None:
    Path("a.txt").write_text("a new film\n", encoding="utf-8")
    refused(call, here, (*FROM_TEACHER, *SOFT, *arguments), *named)


def test_a_recipe_without_a_teacher(call: Call, here: Path) -> None:
    refused(call, here, (*STUDENT, "--recipe", "auto"), "--recipe auto", "--teacher")
    refused(call, here, (*STUDENT, "--recipe", "best"), "--recipe", "auto")


def test_labels_wanted_of_text_that_has_none(call: Call, here: Path) -> None:
    Path("a.txt").write_text("a new film\n" * 4, encoding="utf-8")
    command = ("distill", "-t", "teacher", "--transfer", "a.txt", *OUT)
    refused(call, here, (*command, "--alpha", "0.5"), "alpha 0.5 reads labels", "--alpha 0")
    refused(call, here, (*command, *SOFT, "--transfer-ratio", "2"), "--transfer-ratio 2")
    split = ("distill", "-t", "teacher", "--transfer", "unsupervised", *SOFT, *OUT)
    refused(call, here, split, "--transfer unsupervised is a split of a dataset: give --dataset")


# Models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "~nobody-of-this-name/model", "x" * 300])
@pytest.mark.parametrize("base", [FROM_TEACHER, TEACHER, EVALUATE], ids=["distill", "train", "evaluate"])
def test_a_model_that_is_nowhere(base: tuple[str, ...], name: str, call: Call, here: Path) -> None:
    refused(call, here, [name if word == "teacher" else word for word in base], name)


def test_a_hub_id_that_cannot_be_had(call: Call, here: Path) -> None:
    refused(call, here, (*FROM_TEACHER, "-t", "distilkit-tests/nothing"), "'distilkit-tests/nothing'", "Hub")


def no_config() -> None:
    Path("teacher/config.json").unlink()


def config_not_json() -> None:
    Path("teacher/config.json").write_text('{"model_type": "bert"')


def unknown_architecture() -> None:
    Path("teacher/config.json").write_text('{"model_type": "no-such-model"}')


def no_weights() -> None:
    Path("teacher/model.safetensors").unlink()


def weights_cut_short() -> None:
    file = Path("teacher/model.safetensors")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def weights_of_another_size() -> None:
    config = json.loads(Path("teacher/config.json").read_text())
    Path("teacher/config.json").write_text(json.dumps(config | {"hidden_size": 48}))


def no_tokenizer() -> None:
    for file in Path("teacher").glob("*token*"):
        file.unlink()


def tokenizer_not_json() -> None:
    Path("teacher/tokenizer.json").write_text("{")


def no_head() -> None:
    shutil.rmtree("teacher")
    tiny_bert().bert.save_pretrained("teacher")
    tiny_tokenizer().save_pretrained("teacher")


def a_file() -> None:
    shutil.rmtree("teacher")
    Path("teacher").write_text("weights")


def an_empty_folder() -> None:
    shutil.rmtree("teacher")
    Path("teacher").mkdir()


def an_unfinished_run() -> None:
    Path("teacher").rename("model")
    Path("teacher").mkdir()
    Path("model").rename("teacher/model")
    Path("teacher/config.yaml").write_text("dataset: sst2\n")


BROKEN: list[tuple[Callable[[], None], str]] = [
    (no_config, "config.json"),
    (config_not_json, "config.json"),
    (unknown_architecture, "no-such-model"),
    (no_weights, "model.safetensors"),
    (weights_cut_short, "model.safetensors"),
    (weights_of_another_size, "its weights and its config.json are of different models"),
    (no_tokenizer, "tokenizer"),
    (tokenizer_not_json, "tokenizer"),
    (no_head, "not fine-tuned"),
    (a_file, "config.json"),
    (an_empty_folder, "config.json"),
    (an_unfinished_run, "metrics.json"),
]


@pytest.mark.parametrize("base", [FROM_TEACHER, EVALUATE], ids=["distill", "evaluate"])
@pytest.mark.parametrize(("break_it", "named"), BROKEN, ids=[one.__name__ for one, _ in BROKEN])
def test_a_broken_teacher(
    break_it: Callable[[], None], named: str, base: tuple[str, ...], call: Call, here: Path
) -> None:
    break_it()
    refused(call, here, base, "teacher", named)


@pytest.mark.parametrize("base", [FROM_TEACHER, EVALUATE], ids=["distill", "evaluate"])
@pytest.mark.parametrize("names", [("cat", "dog"), ("negative", "neutral", "positive")], ids=" ".join)
def test_a_teacher_of_other_classes(
    names: tuple[str, ...], base: tuple[str, ...], make_bert: MakeModel, call: Call, here: Path
) -> None:
    shutil.rmtree("teacher")
    shutil.copytree(make_bert(names=names), "teacher")
    refused(call, here, base, "teacher", ", ".join(names), "negative, positive")


@pytest.mark.parametrize("base", [FROM_TEACHER, TEACHER, EVALUATE], ids=["distill", "train", "evaluate"])
def test_a_length_that_the_model_does_not_read(base: tuple[str, ...], call: Call, here: Path) -> None:
    """Position embeddings end there; on CUDA reading on is an assertion deep in a kernel."""
    refused(call, here, (*base, "--max-length", "65"), "--max-length 65", "64")


INIT: list[tuple[Sequence[str], tuple[str, ...]]] = [
    (("--student", "tinybert"), ("--init teacher", "--init random")),
    (("--student", "distilbert"), ("--init teacher", "--init random")),
    (("--student", "tinybert", "--layers", "5"), ("--layers 5", "4 or 6", "--init teacher")),
    (("--student", "distilbert", "--init", "teacher"), ("--layers 6", "has only 2")),
    (("--student", "tinybert", "--init", "teacher", "--layers", "3"), ("--layers 3", "has only 2")),
    (("--student", "wide", "--init", "teacher", "--layers", "1"), ("Widths must match", "--init random")),
    (("--student", "wide", "--layers", "7"), ("--layers 7", "wide", "2")),
    (("--student", "wide", "--init", "random", "--hidden-size", "25"), ("--hidden-size 25", "2")),
    (("--student", "tinybert", "--init", "random", "--hidden-size", "25"), ("--hidden-size 25", "12")),
    (("--student", "roberta", "--init", "teacher"), ("roberta", "bert", "--init random")),
]


@pytest.mark.parametrize(("options", "named"), INIT, ids=[" ".join(options) for options, _ in INIT])
def test_a_student_that_cannot_be_made(
    options: Sequence[str], named: tuple[str, ...], call: Call, here: Path
) -> None:
    """The message says which flag to use instead."""
    for name, changes in (("wide", {"hidden_size": 48}), ("roberta", {"model_type": "roberta"})):
        shutil.copytree("teacher", name)
        config = json.loads(Path(name, "config.json").read_text())
        Path(name, "config.json").write_text(json.dumps(config | changes))
    refused(call, here, (*FROM_TEACHER, *options), *named)


@pytest.mark.parametrize("candidates", ["mlm", "both"])
def test_a_classifier_is_no_masked_language_model(candidates: str, call: Call, here: Path) -> None:
    """transformers would load it with a new head, and every candidate would be noise."""
    arguments = (*AUGMENT, "--rule", "tinybert", "--mlm", "teacher", "--candidates", candidates)
    refused(call, here, arguments, "--mlm teacher", "bert-base-uncased", "--candidates embeddings")


def test_no_masked_language_model_at_hand(call: Call, here: Path) -> None:
    """Offline the default cannot be had; the message says which flags to type instead."""
    arguments = (*AUGMENT, "--rule", "tinybert")
    refused(call, here, arguments, "--mlm", "bert-base-uncased", "--candidates embeddings --embeddings")


def test_a_model_of_a_kind_that_has_no_masked_language_model(call: Call, here: Path) -> None:
    Path("teacher/config.json").write_text('{"model_type": "bilstm"}')
    arguments = (*AUGMENT, "--rule", "tinybert", "--mlm", "teacher")
    refused(call, here, arguments, "--mlm teacher", "bert-base-uncased")


def test_word_vectors_that_are_something_else(call: Call, here: Path) -> None:
    Path("glove.txt").write_text("good 0.1 0.2\nbad 0.1\n")
    refused(call, here, (*TINYBERT, "--embeddings", "glove.txt"), "--embeddings glove.txt, line 2")
    refused(call, here, (*TINYBERT, "--embeddings", "./nowhere.txt"), "nowhere.txt")


# Output folders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [STUDENT, TEACHER], ids=["distill", "train"])
@pytest.mark.parametrize(
    ("there", "output", "named"),
    [
        ("deep/out/notes.txt", "deep/out", ("--output-dir deep/out", "--overwrite")),
        ("deep/out", "deep/out", ("--output-dir deep/out is a file",)),
        ("deep", "deep/out", ("--output-dir deep/out",)),
        ("deep", "deep/er/out", ("--output-dir deep/er/out",)),
    ],
    ids=["not empty", "a file", "parent is a file", "grandparent is a file"],
)
def test_a_wrong_output_folder(
    there: str, output: str, named: tuple[str, ...], base: tuple[str, ...], call: Call, here: Path
) -> None:
    Path(there).parent.mkdir(parents=True, exist_ok=True)
    Path(there).write_text("mine")
    refused(call, here, (*base, "-o", output), *named)


@pytest.mark.parametrize(
    ("there", "named"),
    [("deep/out.parquet", "--overwrite"), ("deep", "not a folder"), ("deep/out.parquet/x", "is a folder")],
)
def test_a_wrong_output_file(there: str, named: str, call: Call, here: Path) -> None:
    Path(there).parent.mkdir(parents=True, exist_ok=True)
    Path(there).write_text("mine")
    refused(call, here, AUGMENT, "--output deep/out.parquet", named)


def test_augment_without_its_tagger(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    refused(call, here, AUGMENT, "pip install 'distilkit[augment]'")


def test_augment_needs_a_training_split(call: Call, here: Path) -> None:
    Path("data/train.jsonl").unlink()
    refused(call, here, AUGMENT, "data has no train split")


@pytest.mark.parametrize("base", [FROM_TEACHER, TEACHER], ids=["distill", "train"])
def test_the_output_folder_is_checked_before_a_model_is_loaded_or_fetched(
    base: tuple[str, ...], call: Call, here: Path
) -> None:
    """Nobody should wait for a download, or for hours, to hear that the folder is taken."""
    Path("deep/out").mkdir(parents=True)
    Path("deep/out/notes.txt").write_text("mine")
    arguments = ["./nowhere" if word == "teacher" else word for word in base]
    refused(call, here, arguments, "--output-dir deep/out")


@pytest.mark.parametrize("files", [("notes.txt",), ("config.yaml",)])
def test_overwrite_on_a_folder_that_is_no_run(files: tuple[str, ...], call: Call, here: Path) -> None:
    Path("deep/out").mkdir(parents=True)
    for name in files:
        Path("deep/out", name).write_text("mine")
    refused(call, here, (*STUDENT, "--overwrite"), "--output-dir deep/out", "holds no run")


def test_overwrite_keeps_the_old_run_when_the_new_one_is_refused(call: Call, here: Path) -> None:
    """A typing mistake must not cost the run that took a night."""
    tiny = ("--hidden-size", "4", "--embedding-size", "4", "--quiet")
    assert call(*STUDENT, *tiny).code == 0
    refused(call, here, (*STUDENT, *tiny), "--output-dir deep/out", "--overwrite")
    Path("data/validation.jsonl").write_text("{")
    refused(call, here, (*STUDENT, *tiny, "--overwrite"), "data/validation.jsonl")


# Exit codes -----------------------------------------------------------------------------------------------


def test_a_gate_that_is_missed_exits_with_3_and_one_that_is_met_with_0(call: Call, here: Path) -> None:
    """CI tells a worse model from a mistake by the exit code alone."""
    before = tree(here)
    met = call(*EVALUATE, "--fail-under", "accuracy=0", "--json")
    assert met.code == 0
    document = json.loads(met.out)
    assert document["gates"][0]["passed"] is True
    missed = call(*EVALUATE, "--fail-under", "accuracy=0", "--fail-under", "f1_macro=1.01", "--json")
    assert missed.code == 3
    assert [gate["passed"] for gate in json.loads(missed.out)["gates"]] == [True, False]
    assert missed.err.count("error: ") == 1 and "teacher: f1_macro" in missed.err and "1.01" in missed.err
    assert "Traceback" not in missed.err
    exact = call(
        *EVALUATE, "--fail-under", f"accuracy={document['models'][0]['metrics']['accuracy']!r}", "--quiet"
    )
    assert (exact.code, exact.out) == (0, ""), "a threshold that is reached exactly is met"
    assert tree(here) == before


def test_a_teacher_of_weights_that_are_there_is_loaded_whole(here: Path) -> None:
    """The broken teachers above break what the good one has."""
    assert "classifier.weight" in load_file(here / "teacher" / "model.safetensors")


# The same in a process of its own, where a traceback or a warning would really be seen.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((*STUDENT, "--alhpa", "0.5"), ("--alhpa",)),
        ((*FROM_TEACHER, "--alpha", "1.5"), ("--alpha", "1.5")),
        ((*EVALUATE, "--split", "test"), ("data/test.jsonl, row 1", "-1")),
    ],
    ids=["flag", "value", "data"],
)
def test_a_mistake_in_a_process_of_its_own(
    arguments: tuple[str, ...], named: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    before = tree(here)
    process = run_cli(*arguments, cwd=here)
    check_refused(Answer(process.returncode, process.stdout, process.stderr), named)
    assert tree(here) == before
