"""Options of `cache path`, `list`, `verify` and `prune`."""

from distilkit.config.fields import Config, Strings, option


class CacheConfig(Config):
    """`cache path`, `cache list` and `cache verify` have no options of their own."""


class CachePruneConfig(Config):
    """Remove from the cache what is damaged or left over, and entries that are named or long unused."""

    key: Strings = option(
        (), panel="Cache", help="Remove the entry whose key begins so, repeatable. See `cache list`."
    )
    unused_days: int | None = option(
        None, ge=1, panel="Cache", help="Remove entries that no run has used for N days."
    )
    all: bool = option(False, panel="Cache", help="Remove every entry.")
