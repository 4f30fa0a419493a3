"""`cache`: look at, check and clear the teacher logits on disk."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distilkit.config import CacheConfig, CachePruneConfig
from distilkit.engine.teacher_logits import maintenance
from distilkit.engine.teacher_logits.maintenance import Check, Entry, Kept, Removed
from distilkit.engine.teacher_logits.store import cache_root
from distilkit.errors import DamageFound, UserError
from distilkit.progress import SILENT, Reporter

SCHEMA = "distilkit.cache/1"


@dataclass(frozen=True)
class CachePath:
    """Where the cache is; `document()` is the JSON of `--json`, here and below."""

    path: Path

    def document(self) -> dict[str, Any]:
        """The versioned JSON document."""
        return {"schema": SCHEMA, "path": str(self.path)}


@dataclass(frozen=True)
class Listing(CachePath):
    """What is stored."""

    entries: tuple[Entry, ...]

    def document(self) -> dict[str, Any]:
        """The versioned JSON document."""
        return super().document() | {"entries": [asdict(entry) for entry in self.entries]}


@dataclass(frozen=True)
class Verification(CachePath):
    """What was found wrong among how many shards."""

    shards: int
    bytes: int
    damaged: tuple[Check, ...]

    def document(self) -> dict[str, Any]:
        """The versioned JSON document."""
        damaged = [asdict(check) for check in self.damaged]
        return super().document() | {"shards": self.shards, "bytes": self.bytes, "damaged": damaged}


@dataclass(frozen=True)
class Pruning(CachePath):
    """What was removed, what had to stay, and the bytes that are free again."""

    removed: tuple[Removed, ...]
    kept: tuple[Kept, ...]
    bytes: int

    def document(self) -> dict[str, Any]:
        """The versioned JSON document."""
        removed, kept = [asdict(one) for one in self.removed], [asdict(one) for one in self.kept]
        return super().document() | {"removed": removed, "kept": kept, "bytes": self.bytes}


def locate(config: CacheConfig) -> CachePath:
    """The folder of the cache: `$DISTILKIT_CACHE`, else the user's cache folder. It may not exist yet."""
    return CachePath(_root())


def list_entries(config: CacheConfig) -> Listing:
    """What is stored, by key. Raises `UserError` when the folder cannot be read."""
    return Listing(_root(), _entries())


def verify(config: CacheConfig, reporter: Reporter = SILENT) -> Verification:
    """Read every shard again. Raises `UserError` when the folder cannot be read."""
    root = _root()
    try:
        checks = maintenance.verify(root, lambda done, total: reporter.advance("shards", done, total))
    except OSError as error:
        raise _unreadable(root, error) from None
    damaged = tuple(check for check in checks if check.damage)
    return Verification(root, len(checks), sum(check.bytes for check in checks), damaged)


def check_damage(verification: Verification) -> None:
    """Raise `DamageFound` when `verify` found something."""
    if verification.damaged:
        raise DamageFound(
            f"{len(verification.damaged)} of {verification.shards} shards in {verification.path} are damaged "
            "and not used. Remove them with: distilkit cache prune"
        )


def prune(config: CachePruneConfig) -> Pruning:
    """Remove what is damaged or left over, and the entries that `config` names.

    Raises:
        UserError: when `config.key` fits no entry or several, or the folder cannot be read.
    """
    root = _root()
    known = [entry.key for entry in _entries()]
    keys = [_one_key(prefix, known) for prefix in config.key]
    try:
        done = maintenance.prune(root, keys=keys, unused_days=config.unused_days, everything=config.all)
    except OSError as error:
        raise _unreadable(root, error) from None
    return Pruning(root, done.removed, done.kept, sum(one.bytes for one in done.removed))


def _one_key(prefix: str, known: list[str]) -> str:
    fitting = [key for key in known if key.startswith(prefix.lower())]
    if not fitting:
        raise UserError(f"--key {prefix}: no entry's key begins so. See: distilkit cache list")
    if len(fitting) > 1:
        raise UserError(
            f"--key {prefix}: the keys of {len(fitting)} entries begin so. "
            "Give more of it; see: distilkit cache list"
        )
    return fitting[0]


def _root() -> Path:
    try:
        return cache_root()
    except RuntimeError as error:  # `~nobody`
        raise UserError(f"DISTILKIT_CACHE is no folder: {error}") from None


def _entries() -> tuple[Entry, ...]:
    root = _root()
    try:
        return tuple(maintenance.entries(root))
    except OSError as error:
        raise _unreadable(root, error) from None


def _unreadable(root: Path, error: OSError) -> UserError:
    return UserError(f"the cache in {root} cannot be read: {error.strerror}. Check DISTILKIT_CACHE.")
