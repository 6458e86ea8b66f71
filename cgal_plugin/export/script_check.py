"""Checks of a TorchScript file before torch reads it: its layout and what its code may call.

torch runs code of the file when it loads it, and later with every call. TorchScript has operators that write
files (``torch.save``, ``torch.from_file``). The code in an archive is text, so it is checked as such: nothing
of the file is run, and names of operators outside :mod:`script_operators` are refused wherever they occur.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import zipfile
from typing import Any

from cgal_plugin.errors import ExportError
from cgal_plugin.export.potential_file import check_potential_file
from cgal_plugin.export.script_operators import is_allowed, is_operator
from cgal_plugin.provenance import BAD_ARCHIVE

METADATA_FILE = "cgal.json"
#: largest code and metadata of one archive that are read, bytes
_MOST_TEXT = 1 << 26
_ZIP = b"PK\x03\x04"
_MEMBER = re.compile(
    r"(data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|(data|constants)/\d+|code/[\w/]+\.py(\.debug_pkl)?|extra/[\w./-]+)"
)
#: a text, a name, or any other character
_TOKEN = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|([A-Za-z_]\w*)|(\s+|.)""", re.ASCII)
_NAME = re.compile(r"\w+", re.ASCII)
_OPS = re.compile(r"\bops\.(\w+)\.(\w+)", re.ASCII)
#: what is no operator, and runs at load, prints, starts a thread, or comes from other libraries
_REFUSED = {
    "__setstate__": "code that runs when the file is loaded",
    "__getstate__": "code that runs when the file is saved",
    "print": "prints",
    "fork": "starts a thread",
    "awaitable": "starts a thread",
    "classes": "uses a class of another library",
    "rpc": "calls other machines",
}
#: "MODULE NAME" of what a pickle of torch.jit.save may name: classes of its code, tensors and containers
_GLOBALS = re.compile(
    r"__torch__(?!\.torch\.classes\b)[\w.]* \w+|torch\._utils _rebuild_(tensor(_v2)?|parameter)"
    r"|torch \w+Storage|torch (device|Size)|collections OrderedDict|torch\.jit\._pickle \w+",
    re.ASCII,
)


def read_script_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a TorchScript file, without running anything of it; empty if it has none.

    Raises
    ------
    ExportError
        The file is damaged, is not TorchScript, or its metadata are not a JSON object.
    """
    check_potential_file(path)
    try:
        with _Archive(path) as archive:
            text = archive.metadata()
        found = json.loads(text) if text else {}
    except BAD_ARCHIVE as error:
        raise _unreadable(path, error) from error
    if not isinstance(found, dict):
        raise ExportError(
            f"potential {os.fspath(path)!r}: its {METADATA_FILE} is {type(found).__name__}, not an object; "
            "export it again with `cgal export`"
        )
    return found


def script_available() -> bool:
    """Return whether this torch can write and read TorchScript, which it deprecates."""
    import torch

    return hasattr(torch, "jit") and hasattr(torch.jit, "script") and hasattr(torch.jit, "load")


def check_script(path: str | os.PathLike[str]) -> None:
    """Check a TorchScript file before it is given to ``torch.jit.load`` or TorchForce.

    A file that passes can still compute anything, and use much time or memory.

    Raises
    ------
    ExportError
        The file is damaged, is not written by ``torch.jit.save``, has code that would run at load, or calls
        an operator that is not for potentials; or torch has no TorchScript.
    """
    check_potential_file(path)
    if not script_available():
        import torch

        raise ExportError(
            f"potential {os.fspath(path)!r} is TorchScript, which torch {torch.__version__} no longer reads: "
            "export it again (`cgal export MODEL.ckpt -o potential.npz`), or install torch 2.10"
        )
    try:
        with _Archive(path) as archive:
            code, pickles = archive.code(), archive.pickles()
        for name, text in code.items():
            problem = _problem(text)
            if problem is not None:
                raise ExportError(
                    f"potential {os.fspath(path)!r} is not loaded: its code ({name}) {problem}. It could "
                    "do more than compute forces, such as write files. Export the model again with `cgal "
                    "export`; if you trust the file, use openmmtorch.TorchForce in a script of your own"
                )
        for name, content in pickles.items():
            _check_pickle(path, name, content)
    except BAD_ARCHIVE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: Exception) -> ExportError:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    return ExportError(
        f"{os.fspath(path)!r} is not a TorchScript file, nor a portable potential ({reason}); "
        "make it with `cgal export`"
    )


class _Archive:
    """A file of ``torch.jit.save``, with the members that every zip reader finds in it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # another format, at the start of which a zip archive is attached, is read by torch as that format
        with open(path, "rb") as handle:
            if handle.read(4) != _ZIP:
                raise ValueError("it is no zip archive")
        self._zip = zipfile.ZipFile(path)
        members = self._zip.infolist()
        tops = {member.filename.partition("/")[0] for member in members}
        names = [member.filename.partition("/")[2] for member in members]
        # torch finds members in any case, and the first of two with one name
        twice = len({name.lower() for name in names}) != len(names)
        if len(tops) != 1 or twice or self._zip.comment or not any(m.header_offset == 0 for m in members):
            raise ValueError("it is not an archive of torch.jit.save: its members are ambiguous")
        unknown = [name for name in names if not _MEMBER.fullmatch(name)]
        if unknown or not {"data.pkl", "constants.pkl"} <= set(names):
            what = f"member {unknown[0][:80]!r}" if unknown else "no data.pkl or constants.pkl"
            raise ValueError(f"it is not an archive of torch.jit.save: {what}")
        self._top = next(iter(tops))
        self._names = names

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def _read(self, name: str) -> bytes:
        size = self._zip.getinfo(f"{self._top}/{name}").file_size
        if size > _MOST_TEXT:
            raise ValueError(f"{name} has {size} bytes, more than {_MOST_TEXT}")
        return self._zip.read(f"{self._top}/{name}")

    def metadata(self) -> str:
        name = f"extra/{METADATA_FILE}"
        return self._read(name).decode() if name in self._names else ""

    def code(self) -> dict[str, str]:
        return {n: self._read(n).decode() for n in self._names if n.startswith("code/") and n.endswith(".py")}

    def pickles(self) -> dict[str, bytes]:
        return {name: self._read(name) for name in ("data.pkl", "constants.pkl")}


def _problem(text: str) -> str | None:
    """Return what is wrong with the code of a file, or None."""
    names: set[str] = set()
    n_ops, before = 0, ""
    for found in _TOKEN.finditer(text):
        string, name, other = found.groups()
        if string is not None:
            inside = string[1:-1]
            if re.search(r"""\\[^nrt"'\\]""", inside.replace("\\\\", "")):
                return f"has an escape sequence in the text {string[:40]}"
            if _NAME.fullmatch(inside):  # may be the name of getattr
                names.add(inside)
        elif name is not None:
            # a name alone is a variable or a function of Python: no operator of torch has no dot before it
            if before == "." or name in _REFUSED:
                names.add(name)
            n_ops += name == "ops"
        elif other in "\"'#\\" or not (other.isascii() and (other.isprintable() or other.isspace())):
            return f"has the character {other!r} outside a text"
        if not found[0].isspace():
            before = found[0]
    others = _OPS.findall(_without_texts(text))
    if len(others) != n_ops:
        return "uses the name ops in another way than ops.NAMESPACE.NAME"
    for namespace, name in others:
        if not is_allowed(name, namespace):
            return f"calls the operator {namespace}::{name}, which is not for potentials"
    for name in _REFUSED:
        if name in names:
            return f"has {name!r} ({_REFUSED[name]})"
    for name in sorted(names):
        if not is_allowed(name) and is_operator(name):
            return f"calls the operator aten::{name}, which is not for potentials"
    return None


def _without_texts(text: str) -> str:
    return _TOKEN.sub(lambda found: '""' if found[1] is not None else found[0], text)


def _check_pickle(path: str | os.PathLike[str], name: str, content: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        known = opcode.name != "GLOBAL" or _GLOBALS.fullmatch(str(argument))
        if not known or opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise ExportError(
                f"potential {os.fspath(path)!r} is not loaded: its {name} names {argument}, which is not for "
                "potentials. Export the model again with `cgal export`"
            )
