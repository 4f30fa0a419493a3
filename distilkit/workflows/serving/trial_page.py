"""The page at `/` to try a sentence: what the student says of it and, with a fallback, the teacher."""

import base64
import hashlib

from markupsafe import Markup

from distilkit.reports.templating import make_environment
from distilkit.workflows.serving.served import Served


def render_page(served: Served, *, has_token: bool, max_characters: int) -> str:
    """Return the page, which loads nothing and asks `/compare`.

    Args:
        has_token: whether it asks for the token.
        max_characters: of a text.
    """
    environment = make_environment()
    script = environment.get_template("serving.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    choice = served.threshold.choice if served.threshold else None
    lead = f"It tells {len(served.class_names):,} classes apart: {', '.join(served.class_names[:10])}"
    lead += ", …" if len(served.class_names) > 10 else "."
    if served.threshold:
        lead += f" Where it is less than {100 * served.threshold.value:.4g} % sure, the teacher answers"
        lead += f": in {100 * (1 - choice.coverage):.1f} % of the validation rows." if choice else "."
    return environment.get_template("serving.html").render(
        title=f"Try {served.name}",
        lead=lead,
        student=served.name,
        teacher=served.teacher_name,
        wants_pairs=served.wants_pairs,
        has_token=has_token,
        max_characters=max_characters,
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
    )
