"""Read files of ``torch.save`` that contain objects of other programs, without these programs and their code.

Tensors and containers become what they are. Every other object becomes an :class:`Inert` record of its
class name, its arguments and its state; no function or class that the file names is imported or called.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cgal_plugin.errors import CGALError
from cgal_plugin.models.torch_files import UNREADABLE, check_file

#: packages whose objects may occur in a file; they are recorded and never imported
_RECORDED = (
    "mlcg",
    "mlcg_tk",
    "torch",
    "torch_geometric",
    "torch_scatter",
    "torch_cluster",
    "torchmetrics",
    "torchmdnet",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "pytorch_lightning",
    "jsonargparse",
    "argparse",
    "pathlib",
    "typing",
    "enum",
    "numpy",
    "e3nn",
    "mace",
)
#: single names of other modules that are recorded
_RECORDED_NAMES = {
    "inspect": ("_empty", "Parameter", "Signature"),
    "_operator": ("getitem",),
    "operator": ("getitem",),
    "builtins": ("type", "object", "int", "float", "str", "bool", "list", "dict", "tuple", "NoneType"),
    "collections": ("defaultdict", "deque"),
    "copyreg": ("_reconstructor",),
}
_UNREADABLE: tuple[type[Exception], ...] = (*UNREADABLE, TypeError, AssertionError)


class Inert:
    """An object of a class that was not imported: ``kind`` (dotted name), arguments, state and items."""

    kind = ""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        """Record the arguments of the constructor."""
        made = super().__new__(cls)
        made.arguments, made.named = arguments, named
        made.state, made.items, made.elements = {}, {}, []
        return made

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    state: Any
    items: dict[Any, Any]
    elements: list[Any]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Record an element of a list."""
        self.elements.append(value)

    def extend(self, values: Any) -> None:
        """Record elements of a list."""
        self.elements.extend(values)

    def __hash__(self) -> int:
        return id(self)

    @property
    def name(self) -> str:
        """Name of the class without its module."""
        return self.kind.rsplit(".", 1)[-1]

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute of the object, or an item of a mapping."""
        state = self.state if isinstance(self.state, Mapping) else {}
        return state[key] if key in state else self.items.get(key, default)

    def part(self, key: str) -> Any:
        """Return a module, buffer or parameter of a torch module, or another attribute; None if missing."""
        for group in ("_modules", "_buffers", "_parameters"):
            found = self.get(group)
            if isinstance(found, Mapping) and key in found:
                return found[key]
        return self.get(key)

    def children(self) -> dict[str, Any]:
        """Return the modules within a torch module by name."""
        found = self.get("_modules")
        return dict(found) if isinstance(found, Mapping) else {}

    def tensors(self, prefix: str = "") -> dict[str, Any]:
        """Return parameters and buffers by name, as ``state_dict`` of the torch module does."""
        own: dict[str, Any] = {}
        for group in ("_parameters", "_buffers"):
            found = self.get(group)
            if isinstance(found, Mapping):
                own |= {f"{prefix}{k}": v for k, v in found.items() if v is not None}
        for key, child in self.children().items():
            if isinstance(child, Inert):
                own |= child.tensors(f"{prefix}{key}.")
        return own

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class _Function:
    """A function that the file may call; its attributes cannot be changed by the file."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("the file changes a function")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the file changes a function")


def _functions() -> dict[str, Any]:
    """Return what a file may call or name by its dotted name: tensors, containers and numbers."""
    import torch
    from torch import _utils
    from torch.serialization import _get_layout

    found: dict[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "torch.Size": torch.Size,
        "torch.device": _Function(torch.device),
        "torch.serialization._get_layout": _Function(_get_layout),
    }
    for name in (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_parameter",
        "_rebuild_sparse_tensor",
    ):
        found[f"torch._utils.{name}"] = _Function(getattr(_utils, name))
    found |= {f"builtins.{c.__name__}": c for c in (set, frozenset, complex, slice, range)}
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            found[f"torch.{name}"] = value
    return found


def _unpickler(name: str) -> type[pickle.Unpickler]:
    allowed, classes = _functions(), dict[str, type[Inert]]()

    class Unpickler(pickle.Unpickler):
        """Resolve a name to an allowed function, else to a record, else refuse the file."""

        def find_class(self, module: str, attribute: str) -> Any:
            module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
            attribute = "int" if (module, attribute) == ("builtins", "long") else attribute
            kind = f"{module}.{attribute}"
            if kind in allowed:
                return allowed[kind]
            package = module.split(".")[0]
            if package not in _RECORDED and attribute not in _RECORDED_NAMES.get(module, ()):
                raise Refused(
                    f"{name} is not read, because it names {kind}, which is none of the objects of a model "
                    "file: such a file can run any code"
                )
            if kind not in classes:
                classes[kind] = type(attribute.rsplit(".", 1)[-1], (Inert,), {"kind": kind})
            return classes[kind]

    return Unpickler


class Refused(pickle.UnpicklingError):
    """The file names something that no model file contains."""


class _Pickle:
    """The part of the module ``pickle`` that ``torch.load`` uses, with the restricted unpickler."""

    def __init__(self, name: str) -> None:
        self.Unpickler = _unpickler(name)
        self.__name__ = "pickle"

    def load(self, file: Any, **options: Any) -> Any:
        """See ``pickle.load``."""
        return self.Unpickler(file, **options).load()

    def loads(self, data: bytes, **options: Any) -> Any:
        """See ``pickle.loads``."""
        return self.load(io.BytesIO(data), **options)


def read_inert(path: str | os.PathLike[str], *, error: type[CGALError] = CGALError) -> Any:
    """Return the content of a file of ``torch.save``, with records in place of unknown objects.

    Parameters
    ----------
    path
        File.
    error
        Exception class to raise.

    Raises
    ------
    CGALError
        The file is missing or damaged, is not a file of ``torch.save``, or names an object that is neither a
        tensor, a container, nor part of the packages of model files.
    """
    import torch

    name = os.fspath(path)
    check_file(path, name, error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors and old formats
            return torch.load(name, map_location="cpu", weights_only=False, pickle_module=_Pickle(name))
    except Refused as problem:
        raise error(str(problem)) from problem
    except _UNREADABLE as problem:
        text = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise error(
            f"{name} cannot be read: it is not a file of torch.save, or it is damaged ({text})"
        ) from problem


def walk(content: Any) -> Iterator[Inert]:
    """Return all records within containers and records, each once, outer ones first."""
    seen: set[int] = set()
    level = [content]
    while level:
        following: list[Any] = []
        for value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Inert):
                yield value
                following += [value.state, value.items, value.elements, *value.arguments]
            elif isinstance(value, Mapping):
                following += value.values()
            elif isinstance(value, list | tuple):
                following += value
        level = following
