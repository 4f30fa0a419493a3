"""Imports point one way, so that a reader can follow a run top to bottom and help stays light."""

import ast
import graphlib
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest
from conftest import ROOT

import distilkit

PACKAGE = ROOT / "distilkit"
# A module may import its own tier and those after it.
TIERS = (
    ("cli",),
    ("workflows",),
    ("engine",),
    ("models", "reports"),
    ("data", "runs", "hardware"),
    ("config", "scores"),
    ("errors", "progress", "stopping"),
)
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "sklearn",
    "numpy",
    "pydantic",
    "typer",
}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str, *, at_import_time: bool = False) -> set[str]:
    """The modules of distilkit that `module` imports, within its functions too unless `at_import_time`."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    home = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    nodes: list[ast.AST] = list(tree.body) if at_import_time else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), home)
            for name in node.names:
                inner = f"{source}.{name.name}"
                if source == "distilkit" and name.name in distilkit.__all__:
                    inner = f"distilkit.{distilkit.LAZY_MODULES[name.name]}"  # what the lazy name stands for
                found.add(inner if inner in FILES else source)
    return {name for name in found if name in FILES}


def tier(module: str) -> int:
    part = module.split(".")[1]
    return next(number for number, parts in enumerate(TIERS) if part in parts)


# The package itself is a face over all tiers, and __main__ is the command line.
INNER = [module for module in FILES if module not in ("distilkit", "distilkit.__main__")]


@pytest.mark.parametrize("module", INNER)
def test_imports_point_down(module: str) -> None:
    """DESIGN, section 2: an arrow means "may import", and none points back."""
    upward = [name for name in imports(module) if name != "distilkit" and tier(name) < tier(module)]
    assert not upward


def test_the_check_sees_imports_at_all() -> None:
    """A parser that finds nothing would pass everything."""
    assert "distilkit.workflows.training" in imports("distilkit.cli.app")
    assert "distilkit.workflows.training" not in imports("distilkit.cli.app", at_import_time=True)
    assert "distilkit.runs.run" in imports("distilkit.runs.locating")
    assert {tier(module) for module in INNER} == set(range(len(TIERS)))


def test_no_two_modules_import_each_other() -> None:
    """Tiers allow it within one, and then the order of imports decides whether the package loads."""
    graphlib.TopologicalSorter({module: imports(module) - {"distilkit"} for module in INNER}).prepare()


def test_only_output_and_tables_know_rich_and_only_the_cli_knows_typer() -> None:
    for module in FILES:
        tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
        names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        tops = {name.partition(".")[0] for name in names}
        assert "rich" not in tops or module in ("distilkit.cli.output", "distilkit.cli.tables"), module
        assert "typer" not in tops or module.startswith("distilkit.cli."), module
        assert "click" not in tops, f"{module}: typer brings its own click"


def test_no_module_is_named_after_a_public_function() -> None:
    """`distilkit.distill` would turn from the function into the module on its second use."""
    names = {part for module in FILES for part in module.split(".")[1:]}
    assert not names & set(distilkit.__all__)


def test_public_names_stay_what_they_are_after_every_module_was_imported() -> None:
    code = "import importlib, distilkit\n"
    code += "".join(f"importlib.import_module({module!r})\n" for module in INNER if "cli" not in module)
    code += "assert all(callable(getattr(distilkit, name)) for name in distilkit.__all__)\n"
    code += "from distilkit import *\nassert distill is distilkit.distill and callable(train)\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_distilkit_brings_in_nothing_heavy() -> None:
    code = "import sys, distilkit; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert "distilkit" in shown.stdout.split()
    assert not HEAVY & set(shown.stdout.split())


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """`hasattr` and doctest rely on it."""
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        distilkit.distil  # noqa: B018
