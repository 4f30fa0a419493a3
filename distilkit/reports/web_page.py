"""Write the page that runs a model in a browser."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distilkit.reports import parts

TEMPLATES = Path(__file__).with_name("templates")
SCRIPTS = ("tokenizer.js", "classify.js")


def write_web_page(
    folder: Path,
    title: str,
    facts: Mapping[str, str],
    fields: Sequence[str],
    *,
    cdn: str | None,
    integrity: str,
) -> None:
    """Write index.html and its scripts, which read data.js, model.js and, without a CDN, runtime.js.

    Args:
        facts: what the page says of the model.
        fields: a label for each text that is typed.
        cdn: a folder on the web that holds onnxruntime-web; none where it lies beside the page.
        integrity: SHA-384 of its ort.wasm.min.js, in base 64.
    """
    page = parts.render(
        "classify.html",
        title=title,
        facts=list(facts.items()),
        fields=fields,
        cdn=cdn,
        integrity=integrity,
    )
    (folder / parts.INDEX).write_text(page, encoding="utf-8")
    for name in SCRIPTS:
        (folder / name).write_bytes((TEMPLATES / name).read_bytes())
