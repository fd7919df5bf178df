"""The YAML that a config file may hold."""

from __future__ import annotations

from typing import Any

import yaml


def load(text: bytes) -> Any:
    """Return the value that a YAML text holds, with dates as text, as in JSON.

    Raises:
        ValueError: it is no YAML, or has two equal keys in one mapping; its text says where.
    """
    try:
        return yaml.load(text.decode(), _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """Reads YAML with dates as text, as in JSON, and refuses duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - yaml's own attribute
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in written:
            if isinstance(key, str) and written.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)
