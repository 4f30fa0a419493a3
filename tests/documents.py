"""Read the project's Markdown pages. `python tests/documents.py` pastes today's helps into docs/cli.md."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
CLI_PAGE = DOCS / "cli.md"

RUNNABLE = "bash run"
HELP_BLOCK = re.compile(
    r"^```text\n\$ distilkit (?P<arguments>.*?)--help\n.*?^```$", re.DOTALL | re.MULTILINE
)
CODE_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: the words after its fence, its text, and the line it starts on."""

    info: str
    text: str
    line: int


def read_page(page: Path) -> str:
    """Return a page's Markdown."""
    return page.read_text(encoding="utf-8")


def code_blocks(page: Path) -> list[CodeBlock]:
    """Return the fenced blocks of a page, in order."""
    markdown = read_page(page)
    return [
        CodeBlock(match["info"].strip(), match["text"], markdown.count("\n", 0, match.start()) + 1)
        for match in CODE_BLOCK.finditer(markdown)
    ]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return CODE_BLOCK.sub("", read_page(page))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links that stay in the project."""
    targets = [match["target"] for match in LINK.finditer(prose(page))]
    return [target for target in targets if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    titles = [match["title"] for match in HEADING.finditer(prose(page))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def shell_commands(text: str) -> Iterator[tuple[list[str], str | None]]:
    """Yield the commands of a shell block, and the file that takes each one's output, or None."""
    for line in text.replace("\\\n", " ").splitlines():
        command, _, target = line.partition(" > ")
        if words := shlex.split(command, comments=True):
            yield words, target.strip() or None


def help_block(*command: str) -> str:
    """Return the fenced block that shows `distilkit COMMAND --help`, 100 columns wide."""
    from typer.testing import CliRunner

    from distilkit.cli.app import app

    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*command, "--help"], prog_name="distilkit", env=plain)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.output.strip("\n").splitlines()]
    shown = "\n".join(lines).strip("\n")
    return f"```text\n$ {' '.join(['distilkit', *command, '--help'])}\n{shown}\n```"


def pasted_helps(markdown: str) -> dict[tuple[str, ...], str]:
    """Return the help blocks of a page by their command."""
    return {tuple(match["arguments"].split()): match[0] for match in HELP_BLOCK.finditer(markdown)}


def paste_helps(markdown: str) -> str:
    """Return a page with every help block replaced by what the command prints today."""
    return HELP_BLOCK.sub(lambda match: help_block(*match["arguments"].split()), markdown)


if __name__ == "__main__":
    CLI_PAGE.write_text(paste_helps(read_page(CLI_PAGE)), encoding="utf-8")
