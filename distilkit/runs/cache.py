"""Where distilkit keeps what later runs use again."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from distilkit.errors import UserError


def cache_root() -> Path:
    """Return the folder of all caches: `$DISTILKIT_CACHE`, else the user's cache folder.

    Raises:
        UserError: when the variable names the home folder of a user who does not exist.
    """
    folder = os.environ.get("DISTILKIT_CACHE")
    try:
        return Path(folder).expanduser() if folder else user_cache_path("distilkit")
    except RuntimeError as error:
        raise UserError(f"DISTILKIT_CACHE {folder} is not a folder: {error}") from None
