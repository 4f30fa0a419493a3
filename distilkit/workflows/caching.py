"""Run `cache`: list, verify and remove the teacher logits on disk."""

from dataclasses import asdict, dataclass
from pathlib import Path

from distilkit.config import CacheConfig, CachePruneConfig
from distilkit.engine.teacher_logits import maintenance
from distilkit.engine.teacher_logits.maintenance import Check, Entry, Kept, Removed
from distilkit.errors import DamageFound, UserError, pluralize
from distilkit.progress import SILENT, Reporter
from distilkit.runs.cache import cache_root

SCHEMA = "distilkit.cache/1"


@dataclass(frozen=True)
class CachePath:
    """Hold the folder of the cache; `document()` is the JSON of `--json`, here and below."""

    path: Path

    def document(self) -> dict[str, object]:
        """Return the versioned JSON document."""
        return {"schema": SCHEMA, "path": str(self.path)}


@dataclass(frozen=True)
class Listing(CachePath):
    """List the stored entries."""

    entries: tuple[Entry, ...]

    def document(self) -> dict[str, object]:
        """Return the versioned JSON document."""
        return super().document() | {"entries": [asdict(entry) for entry in self.entries]}


@dataclass(frozen=True)
class Verification(CachePath):
    """List the damaged shards, with the number and the bytes of all shards."""

    shards: int
    bytes: int
    damaged: tuple[Check, ...]

    def document(self) -> dict[str, object]:
        """Return the versioned JSON document."""
        damaged = [asdict(check) for check in self.damaged]
        return super().document() | {"shards": self.shards, "bytes": self.bytes, "damaged": damaged}


@dataclass(frozen=True)
class Pruning(CachePath):
    """List what was removed and what could not be, with the bytes that were freed."""

    removed: tuple[Removed, ...]
    skipped: tuple[Kept, ...]
    bytes: int

    def document(self) -> dict[str, object]:
        """Return the versioned JSON document."""
        removed = [asdict(entry) for entry in self.removed]
        skipped = [asdict(entry) for entry in self.skipped]
        return super().document() | {"removed": removed, "kept": skipped, "bytes": self.bytes}


def locate(config: CacheConfig) -> CachePath:
    """Return the cache folder, which may not exist: `$DISTILKIT_CACHE`, else the user's cache folder."""
    return CachePath(cache_root())


def list_entries(config: CacheConfig) -> Listing:
    """List what is stored, by key.

    Raises:
        UserError: when the folder cannot be read.
    """
    return Listing(cache_root(), _entries())


def verify(config: CacheConfig, reporter: Reporter = SILENT) -> Verification:
    """Read every shard and check it.

    Raises:
        UserError: when the folder cannot be read.
    """
    root = cache_root()
    try:
        checks = maintenance.verify(root, lambda done, total: reporter.advance("shards", done, total))
    except OSError as error:
        raise _unreadable(root, error) from None
    damaged = tuple(check for check in checks if check.damage)
    return Verification(root, len(checks), sum(check.bytes for check in checks), damaged)


def check_damage(verification: Verification) -> None:
    """Raise `DamageFound` when a shard is damaged."""
    if verification.damaged:
        damaged, shards = len(verification.damaged), pluralize(verification.shards, "shard")
        be = "is" if damaged == 1 else "are"
        raise DamageFound(
            f"{damaged} of {shards} in {verification.path} {be} damaged and not used. "
            "Remove what is damaged with: distilkit cache prune"
        )


def prune(config: CachePruneConfig) -> Pruning:
    """Remove damaged shards, leftovers, and the entries that `config` names.

    Raises:
        UserError: when a `config.key` fits no entry or several, or the folder cannot be read.
    """
    root = cache_root()
    stored = [entry.key for entry in _entries()]
    keys = [_match_key(prefix, stored) for prefix in config.key]
    try:
        pruned = maintenance.prune(root, keys=keys, unused_days=config.unused_days, everything=config.all)
    except OSError as error:
        raise _unreadable(root, error) from None
    return Pruning(root, pruned.removed, pruned.kept, sum(entry.bytes for entry in pruned.removed))


def _match_key(prefix: str, stored: list[str]) -> str:
    matches = [key for key in stored if key.startswith(prefix.lower())]
    if not matches:
        raise UserError(f"--key {prefix}: no entry's key begins with it. See: distilkit cache list")
    if len(matches) > 1:
        raise UserError(
            f"--key {prefix}: the keys of {len(matches)} entries begin with it. "
            "Give more characters; see: distilkit cache list"
        )
    return matches[0]


def _entries() -> tuple[Entry, ...]:
    root = cache_root()
    try:
        return tuple(maintenance.entries(root))
    except OSError as error:
        raise _unreadable(root, error) from None


def _unreadable(root: Path, error: OSError) -> UserError:
    return UserError(f"the cache in {root} cannot be read: {error.strerror}. Check DISTILKIT_CACHE.")
