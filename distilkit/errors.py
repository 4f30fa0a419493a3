"""The ways a command ends badly without it being our bug."""

import errno
from collections.abc import Sequence

# What a disk, its owner or its network says no with.
DISK_ERRORS = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EIO, errno.ESTALE, errno.ENOLCK, errno.ENAMETOOLONG),
    )
)


MAX_NAMES = 8  # in a message
MAX_NAME_CHARACTERS = 320  # of all of them


def join_first(parts: Sequence[str]) -> str:
    """Return the first parts of a list for a message, at most eight, and how many more there are."""
    more = f" and {len(parts) - MAX_NAMES:,} more" if len(parts) > MAX_NAMES else ""
    return ", ".join(parts[:MAX_NAMES]) + more


def list_names(names: Sequence[str]) -> str:
    """Return names for a message: at most eight, fewer where they are long, and how many more there are."""
    shown: list[str] = []
    for name in names[:MAX_NAMES]:
        if shown and sum(map(len, [*shown, name])) > MAX_NAME_CHARACTERS:
            break
        shown.append(name[:MAX_NAME_CHARACTERS])
    more = [f"{len(names) - len(shown):,} more"] if len(names) > len(shown) else []
    return ", ".join([*shown, *more])


def pluralize(count: int, noun: str) -> str:
    """Return `1 row`, `2 rows`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


class UserError(Exception):
    """A mistake the user can mend: shown without a traceback, exit code 2."""


class DistilkitWarning(UserWarning):
    """Something about data or models that makes a result worse than it could be, or worthless."""


class GateMissed(Exception):
    """A `--fail-under` threshold was not reached: everything worked, exit code 3."""


class DamageFound(GateMissed):
    """`cache verify` found something damaged: it worked, the check failed, exit code 3."""


class FaultFound(GateMissed):
    """`doctor` found an error: it worked, the check failed, exit code 3."""
