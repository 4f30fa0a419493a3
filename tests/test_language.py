"""Names and docstrings that a stranger understands: DESIGN, section 9, held by counting."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "distilkit").rglob("*.py"))
# They say nothing of what they hold.
VAGUE = frozenset(
    (
        *("one", "found", "own", "number", "numbers", "place", "places", "other", "others", "told", "said"),
        *("given", "held", "kept", "known", "wanted", "needed", "aside", "beside", "many", "each", "most"),
    )
)
JSON_KEYS = {("maintenance.py", "kept")}  # `cache prune --json` has had this key from the start
NO_VERB = re.compile(r"(The|What|Of|A|An|As|How|Whether|Which|Who|Where|When|It|Its|That|This|These)\b")


def functions(file: Path) -> Iterator[ast.FunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def bound_names(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def code_lines(function: ast.FunctionDef, lines: list[str]) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    assert function.end_lineno
    text = lines[body[0].lineno - 1 : function.end_lineno] if body else []
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_name_is_vague(file: Path) -> None:
    """A reader has to run the code in their head to learn what `one` or `found` is."""
    vague = [
        f"line {line}: {name}"
        for line, name in bound_names(file)
        if name.strip("_") in VAGUE and (file.name, name) not in JSON_KEYS
    ]
    assert not vague


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_docstrings_of_functions_begin_with_a_verb(file: Path) -> None:
    """A first sentence without one says what something is made of, and not what a call does."""
    weak = [
        f"line {function.lineno}: {function.name}"
        for function in functions(file)
        if NO_VERB.match(ast.get_docstring(function) or "Return")
    ]
    assert not weak


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_functions_are_short_and_take_few_parameters(file: Path) -> None:
    """Under 60 lines of code, and at most 8 parameters besides `self`."""
    lines = file.read_text(encoding="utf-8").splitlines()
    for function in functions(file):
        arguments = function.args
        names = [
            argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        ]
        assert len([name for name in names if name not in ("self", "cls")]) <= 8, function.name
        assert code_lines(function, lines) < 60, function.name


def test_workflows_has_few_rooms_at_its_top() -> None:
    """A drawer of twenty flat files is where a newcomer gives up."""
    rooms = [path for path in (ROOT / "distilkit" / "workflows").iterdir() if path.name[0] != "_"]
    assert len(rooms) <= 15
