"""README.md and docs/ say what the code does today."""

import ast
import json
import re
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import documents
import huggingface_hub
import pytest
from conftest import BAD, GOOD, QUICK, ROOT, Call, tiny_bert, tiny_tokenizer, write_jsonl
from documents import CLI_PAGE, PAGES, README

from distilkit.reports.document import EvaluationDocument, Gate, ModelEntry, PairEntry
from distilkit.runs import locating

PACKAGE = ROOT / "distilkit"
COMMANDS = [
    ("train",),
    ("distill",),
    ("doctor",),
    ("augment",),
    ("evaluate",),
    ("predict",),
    ("export",),
    ("serve",),
    ("label",),
    ("report",),
    ("sweep",),
    ("sweep", "report"),
    ("cache",),
    ("cache", "path"),
    ("cache", "list"),
    ("cache", "verify"),
    ("cache", "prune"),
]
in_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_the_cli_page_shows_the_help_that_the_command_prints(command: tuple[str, ...]) -> None:
    """An option that is added, renamed or dropped must show in docs/cli.md."""
    pasted = documents.pasted_helps(documents.read_page(CLI_PAGE))
    assert command in pasted, (
        f"docs/cli.md has no block that begins with: $ distilkit {' '.join(command)} --help"
    )
    assert pasted[command] == documents.help_block(*command), "run `make docs-help`"


def test_the_readme_is_short() -> None:
    assert len(documents.read_page(README).splitlines()) <= 250


@in_every_page
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in documents.links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT) and file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in documents.anchors(file), f"{page.name} links to {target}"


def test_the_readme_links_to_every_page() -> None:
    linked = {(README.parent / target).resolve() for target in documents.links(README)}
    assert {page for page in PAGES if page != README} <= linked


@in_every_page
def test_config_files_that_are_named_exist(page: Path) -> None:
    for path in re.findall(r"\bconfigs/[\w./-]+\.yaml\b", documents.read_page(page)):
        assert (ROOT / path).is_file(), f"{page.name} names {path}"


@in_every_page
def test_no_machine_path_is_published(page: Path) -> None:
    text = documents.read_page(page)
    assert not any(path in text for path in ("/" + "work/", "/" + "root/", "/" + "tmp/"))


def test_the_architecture_page_lists_exactly_the_modules_that_exist() -> None:
    """A module that moves must move on the page too, and each has a line that says what it holds."""
    listed = _listed_modules()
    assert all(listed.values()), [path for path, purpose in listed.items() if not purpose]
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent == PACKAGE]
    assert sorted(listed) == sorted(path.relative_to(PACKAGE).as_posix() for path in files)


def test_the_architecture_page_names_functions_where_they_are() -> None:
    """A function that moves must move in the tables of the page too."""
    page = documents.read_page(documents.DOCS / "architecture.md")
    rows = re.findall(r"^\|(?: \d+ \|)? `(?P<file>[\w/]+\.py)` \| `(?P<name>\w+)` \|", page, re.M)
    assert len(rows) > 20
    for file, name in rows:
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{file} has no {name}"


def _listed_modules() -> dict[str, str]:
    """Return what docs/architecture.md says about each module of its tree, by path in the package."""
    (tree,) = (
        block.text
        for block in documents.code_blocks(documents.DOCS / "architecture.md")
        if block.text.startswith("distilkit/\n")
    )
    modules: dict[str, str] = {}
    folders: list[str] = []
    for line in tree.splitlines()[1:]:
        name, _, purpose = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        elif name:
            path = "".join([*folders, name])
            assert path not in modules, f"{path} is listed twice"
            modules[path] = purpose.strip()
    return modules


def test_the_public_names_are_on_the_python_page() -> None:
    text = documents.read_page(documents.DOCS / "python.md")
    exported = ast.literal_eval(
        re.search(r"^__all__ = (\[.*?\])", (PACKAGE / "__init__.py").read_text("utf-8"), re.S | re.M)[1]  # type: ignore[index]
    )
    assert not [name for name in exported if not re.search(rf"\b{name}\b", text)]


@in_every_page
def test_blocks_marked_as_runnable_run_in_order(
    page: Path, console: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renamed option breaks every command that people copy from a page."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in documents.code_blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.info == documents.RUNNABLE:
            for words, output in documents.shell_commands(block.text):
                assert words[0] == "distilkit", f"{where}: only distilkit is run here, not {words[0]}"
                answer = console(*words[1:])
                assert answer.code == 0, f"{where}: {' '.join(words)}\n{answer.err}{answer.out}"
                if output:
                    Path(output).write_text(answer.out, encoding="utf-8")
        elif block.info == "python":
            exec(compile("\n" * block.line + block.text, page.name, "exec"), names)


def test_the_readme_transcript_has_the_lines_that_the_commands_print(
    console: Call, folder: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is reworded must be reworded in the README: its figures differ here, its words do not.

    Three lines depend on the tiny data and models and are left out: calibration, reference and comparison.
    """
    monkeypatch.chdir(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    (transcript,) = (b.text for b in documents.code_blocks(README) if "distilkit.data.demo" in b.text)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(DEMO)", "demo")
    printed: set[str] = set()
    for line in transcript.splitlines():
        if line.startswith(("distilkit ", "python ")):
            assert f"$(BIN)/{line}\n" in makefile, f"make demo does not run: {line}"
        if line.startswith("distilkit "):
            answer = console(*line.split()[1:])
            assert answer.code == 0, answer.err
            printed = {_without_figures(shown) for shown in (answer.err + answer.out).splitlines()}
        elif printed and not line.startswith(("calibration:", "(always")) and " against " not in line:
            assert _without_figures(line) in printed, f"no longer printed: {line}"


def test_the_doctor_page_shows_what_doctor_prints(
    console: Call, folder: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that is added, or a finding that is reworded, must show on the page."""
    monkeypatch.chdir(folder)
    blocks = [
        block.text for block in documents.code_blocks(documents.DOCS / "doctor.md") if block.info == "text"
    ]
    for dataset, exit_code, block in zip(("sst2", "mrpc"), (0, 3), blocks, strict=True):
        options = ["-d", dataset, "--data-dir", f"data/{dataset}", "-t", "runs/sst2-teacher"]
        answer = console("doctor", *options)
        assert answer.code == exit_code, answer.err + answer.out
        printed = {_without_figures(line) for line in answer.out.splitlines()}
        shown = block.partition("error: the teacher runs/sst2-teacher is right in")[
            0
        ]  # as few rows never show
        for line in shown.splitlines():
            if "checked: " in line:
                assert line.partition("checked: ")[2] == answer.out.partition("checked: ")[2].strip()
            else:
                assert _without_figures(line) in printed, f"no longer printed: {line}"


def test_the_evaluation_page_names_every_key_of_the_document() -> None:
    text = documents.read_page(documents.DOCS / "evaluation.md")
    for part in (EvaluationDocument, ModelEntry, PairEntry, Gate):
        keys = [field.serialization_alias or name for name, field in part.model_fields.items()]
        assert not [key for key in keys if not re.search(rf"[`\"]{key}[`\"]", text)]


def _without_figures(line: str) -> str:
    """Return a line of output without figures, rules and what depends on the machine."""
    line = re.sub(r"\b\d+ (h \d+ min|min|s)\b", "0 s", line)
    line = re.sub(r"rows, (cpu|cuda|[A-Z]).*", "rows", line).removesuffix("  best so far")
    line = re.sub(r"augmented-[0-9a-f]{8}", "augmented-0", line).replace("\u2500", "")
    return " ".join(re.sub(r"[\d.,]*\d[kMG]?\b", "0", line).split())


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the prepared folder; replace `minilm` and the models and datasets of the Hub by tiny ones."""
    work = tmp_path / "home"
    shutil.copytree(prepared, work)
    bert = tmp_path / "bert"
    tiny_bert().bert.save_pretrained(bert)
    tiny_tokenizer().save_pretrained(bert)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(bert))
    monkeypatch.setattr(locating, "find_spec", lambda name: None)
    digest = sha256((bert / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(locating, "MINILM_SHA256", digest)
    hub = {("nyu-mll/glue", "sst2"): "sst2", ("stanfordnlp/imdb", None): "imdb"}

    def load_dataset(repository: str, part: str | None = None) -> datasets.DatasetDict:
        files = (work / "data" / hub[repository, part]).glob("*.jsonl")
        splits = {
            file.stem: [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files
        }
        return datasets.DatasetDict(
            {name: datasets.Dataset.from_list(split) for name, split in splits.items()}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return work


def two_sentence_texts(sentences: Sequence[str]) -> list[str]:
    """Return the 12 texts of two different sentences."""
    return [f"{first} , {second}" for first in sentences for second in sentences if first != second]


def labelled(positive: Sequence[str], negative: Sequence[str], text: str, label: str) -> list[dict[str, Any]]:
    return [{text: value, label: 0} for value in negative] + [{text: value, label: 1} for value in positive]


@pytest.fixture(scope="module")
def prepared(mrpc_dir: Path, teacher_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the pages assume: tiny datasets in `data/`, own data, and three runs on SST-2.

    No text is in two splits, which `doctor` would rightly call an error.
    """
    from distilkit import DistillConfig, distill_many

    home = tmp_path_factory.mktemp("docs")
    good, bad = two_sentence_texts(GOOD), two_sentence_texts(BAD)
    for folder, text, label, held_out in (
        ("data/sst2", "sentence", "label", ["validation"]),
        ("data/imdb", "text", "label", ["test"]),
        ("demo/data", "text", "label", ["validation", "test"]),
        ("reviews", "text", "label", ["validation"]),
        ("stars", "review", "stars", ["validation"]),
    ):
        write_jsonl(home / folder / "train.jsonl", labelled(good[::2], bad[::2], text, label))
        for split in held_out:
            write_jsonl(home / folder / f"{split}.jsonl", labelled(good[1::2], bad[1::2], text, label))
    hidden = [{"sentence": f"{text} .", "label": -1} for text in good + bad]
    write_jsonl(home / "data" / "sst2" / "test.jsonl", hidden)
    shutil.copytree(mrpc_dir, home / "data" / "mrpc")
    mixed = [f"{first} , {second}" for first in GOOD for second in BAD]
    unlabelled = [{"text": text, "label": -1} for text in mixed]
    write_jsonl(home / "data" / "imdb" / "unsupervised.jsonl", unlabelled)
    votes = [{"text": text, "votes": {"0": 1, "1": 4}} for text in good] + [
        {"text": text, "votes": {"0": 5}} for text in bad
    ]
    write_jsonl(home / "answers.jsonl", votes)
    (home / "reviews.txt").write_text("\n".join(mixed) + "\n", encoding="utf-8")
    shutil.copytree(teacher_run.path, home / "runs" / "sst2-teacher")
    shared: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": home / "data" / "sst2", "epochs": 20}
    shared["teacher"] = (str(teacher_run.path),)
    alphas = {"sst2-bilstm": 0.0, "sst2-bilstm-labels": 1.0}
    distill_many(
        [
            DistillConfig(**shared, alpha=alpha, output_dir=home / "runs" / name)
            for name, alpha in alphas.items()
        ]
    )
    return home
