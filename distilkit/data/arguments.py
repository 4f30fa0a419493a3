"""Arguments that are texts, or names of files with texts: told apart without reading any."""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilkit.data.formats import COMPRESSIONS, READABLE, split_name
from distilkit.errors import UserError
from distilkit.runs.folder import suggest_sibling


def find_files(arguments: Sequence[str]) -> list[Path]:
    """Return the files that the arguments name; none where they are texts.

    An argument names a file where there is one, or where it has the ending of one and no blank in it.

    Raises:
        UserError: where a file is missing, has another ending or stands beside texts.
    """
    files = [Path(argument) for argument in arguments if _names_file(argument)]
    for file in files:
        if file.is_dir():
            raise UserError(f"{file} is a folder. Give its files, or a text of more than its name on stdin.")
        if not file.exists():
            advice = suggest_sibling(file) or "If it is a text, pipe it to stdin."
            raise UserError(f"{file}: there is no such file. {advice}")
        if not split_name(file)[1]:
            raise UserError(f"{file}: its ending must be one of .txt, {READABLE}.")
    if files and len(files) < len(arguments):
        text = next(argument for argument in arguments if not _names_file(argument))
        raise UserError(f"{files[0]} is a file and {text[:40]!r} is a text. Give texts or files, not both.")
    return files


def check_stdin() -> None:
    """Raise `UserError` where stdin is closed, or a terminal at which nobody knows what is awaited."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise UserError(
            "there are no texts: name texts or files after the model, or pipe lines to stdin, such as "
            "distilkit predict MODEL < texts.txt"
        )


def _names_file(argument: str) -> bool:
    path = Path(argument)
    try:
        if path.exists():
            return True
    except OSError:  # a text may be longer than a name can be
        return False
    has_ending = bool(split_name(path)[1]) or path.suffix.lower() in COMPRESSIONS
    return has_ending and not any(character.isspace() for character in argument)
