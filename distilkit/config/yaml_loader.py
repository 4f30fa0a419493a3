"""A YAML loader for files of options: plain values, small in memory whatever the file holds."""

from typing import Any

import yaml


class OptionsLoader(yaml.SafeLoader):
    """Refuse aliases, which make gigabytes of some hundred bytes, and leave dates as they are written."""

    # Dates are names of folders here, and `2024-02-30` is one too.
    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
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
