"""Read YAML files: without code, aliases that expand without end, and keys that are given twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cgal_plugin.errors import ConfigError

_MAX_NODES = 100_000
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
# libyaml's safe loader is ten times faster, but PyYAML may lack it
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: str | os.PathLike[str], *, fast: bool = False) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """Return the content of a YAML file, and the line of every key path in it.

    Merge keys (``<<``) are allowed: keys of the mapping itself win, then those of the first merged one.

    Parameters
    ----------
    fast
        Parse with libyaml if there is one, and return no lines. Its messages are shorter.

    Raises
    ------
    ConfigError
        The file is not UTF-8 text or not YAML, has a duplicate key, is nested too deeply, or has aliases that
        expand to an excessive number of values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    loader = None
    try:
        loader = (_FAST if fast else yaml.SafeLoader)(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _check_size(root)
        _check_keys(root)
        _merge(root, set())
        lines = {} if fast else dict(_lines(root, ()))
        return loader.construct_document(root), lines
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_size(root: yaml.Node) -> None:
    """Refuse aliases that contain themselves, or that expand to an excessive number of values."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise ConfigError(f"line {node.start_mark.line + 1}: an alias contains itself")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size(root) > max(_MAX_NODES, len(sizes)):  # without aliases, both numbers are equal
        raise ConfigError(f"aliases make it larger than {_MAX_NODES} values")


def _check_keys(root: yaml.Node) -> None:
    """Refuse keys that are given twice. Merge keys do not count."""
    known: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in known:
            continue
        known.add(id(node))
        waiting += _children(node)
        seen: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != _TEXT:
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ConfigError(
                    f"line {line}: key {key.value!r} is given twice (first on line {seen[key.value]})"
                )
            seen[key.value] = line


def _merge(node: yaml.Node, done: set[int]) -> None:
    """Replace merge keys by the keys that they stand for: the first mapping that has a key counts.

    The loader does this as well, but in some versions the last mapping of a list wins.
    """
    if id(node) in done:
        return
    done.add(id(node))
    for each in _children(node):
        _merge(each, done)
    if not isinstance(node, yaml.MappingNode):
        return
    own = [pair for pair in node.value if pair[0].tag != _MERGE]
    known = {(key.tag, key.value) for key, _ in own if isinstance(key, yaml.ScalarNode)}
    merged = []
    for key, value in node.value:
        for each in _mappings(key, value) if key.tag == _MERGE else ():
            for pair in each.value:
                name = (pair[0].tag, pair[0].value) if isinstance(pair[0], yaml.ScalarNode) else pair[0]
                if name not in known:
                    known.add(name)
                    merged.append(pair)
    node.value = merged + own


def _mappings(key: yaml.Node, value: yaml.Node) -> list[yaml.MappingNode]:
    found = value.value if isinstance(value, yaml.SequenceNode) else [value]
    if not all(isinstance(each, yaml.MappingNode) for each in found):
        line = key.start_mark.line + 1
        raise ConfigError(f"line {line}: << takes a section of keys and values, or a list of sections")
    return list(found)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [n for pair in node.value for n in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _lines(node: yaml.Node | None, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            here = (*path, i)
            yield here, value.start_mark.line + 1
            yield from _lines(value, here)
