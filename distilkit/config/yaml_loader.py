"""A YAML loader for files of options: plain values, small in memory whatever the file holds."""

import re
from typing import Any

import yaml

# YAML 1.1 makes more of plain words than YAML 1.2: 750 of 12:30, 8 of 010, false of `no`, and dates. Folders
# are named after days, and `2024-02-30` is a name too.
_RESTRICTED = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "int", "float", "bool")}


class OptionsLoader(yaml.SafeLoader):
    """Refuse aliases, which make gigabytes of some hundred bytes, and read plain words as YAML 1.2 does."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _RESTRICTED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next value, as the base class does, where it is no alias."""
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs have no types for it
            raise yaml.composer.ComposerError(
                None, None, f"write the value instead of the alias *{event.anchor}", event.start_mark
            )
        return super().compose_node(parent, index)


for _kind, _pattern, _first in (
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
):
    OptionsLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), list(_first)
    )
