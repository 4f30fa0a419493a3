"""`ResponseCache`: what a server answered, on disk as soon as it is there, so that nothing is asked twice."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any

RESPONSES = "responses.jsonl"


class ResponseCache:
    """Look up responses by the digest of what was asked, from several threads.

    Attributes:
        spent: what each stored response took, in their order.
    """

    def __init__(self, file: Path, stream: IO[bytes]) -> None:
        self._stream, self._lock = stream, Lock()
        self._responses: dict[bytes, Any] = {}
        self.spent: list[dict[str, Any]] = []
        for line in _read_lines(file):
            self._responses[bytes.fromhex(line["key"])] = line["response"]
            self.spent.append(line["spent"])

    @property
    def is_empty(self) -> bool:
        """Return whether there is no response."""
        return not self._responses

    def get(self, key: bytes) -> Any | None:
        """Return a response; `None` where there is none."""
        return self._responses.get(key)

    def add(self, key: bytes, response: Any, spent: dict[str, Any]) -> None:
        """Store a response, which a kill of this process does not undo.

        Args:
            response: JSON, and not `None`.
            spent: what it took, as JSON.
        """
        line = json.dumps({"key": key.hex(), "response": response, "spent": spent}, ensure_ascii=True)
        with self._lock:
            self._stream.write(line.encode() + b"\n")
            self._stream.flush()
            self._responses[key] = response


@contextmanager
def open_responses(folder: Path) -> Iterator[ResponseCache]:
    """Provide the responses that are kept in a folder."""
    file = folder / RESPONSES
    with file.open("ab") as stream:
        if stream.tell() and not file.read_bytes().endswith(b"\n"):
            stream.write(b"\n")  # after a line that a kill cut off
        yield ResponseCache(file, stream)


def digest_request(*parts: Any) -> bytes:
    """Return 16 bytes that stand for a request and all that its response is read by."""
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that were written whole."""
    with file.open("rb") as lines:
        for text in lines:
            try:
                line = json.loads(text)
                bytes.fromhex(line["key"])
                yield {"key": line["key"], "response": line["response"], "spent": line["spent"]}
            except (ValueError, TypeError, KeyError):
                continue
