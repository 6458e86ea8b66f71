"""Values of the report as text, and as data that is safe to embed."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DASH = "–"


def number(value: Any, digits: int = 2) -> str:
    """A number for the page; a dash for None and what is not finite."""
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return str(value)
    if not math.isfinite(value):
        return DASH
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", "\u202f")
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 10.0 ** (-digits - 1)):
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def field(item: Any, name: str) -> Any:
    """``name`` of a record or of a mapping."""
    value = item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
    return DASH if value is None or value == "" else value


def script_json(value: Any) -> str:
    """JSON that is safe inside a ``<script>`` element."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for raw, safe in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(raw, safe)
    return Markup(text)


def printable(value: Any) -> Any:
    """Nested plain values that JSON can hold; what is not finite becomes text."""
    if isinstance(value, Mapping):
        return {str(k): printable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [printable(v) for v in value]
    if isinstance(value, np.ndarray):
        return printable(value.tolist())
    if isinstance(value, np.generic):
        return printable(value.item())
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def prior_rows(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Column names and cells of the prior table; nested values become text."""
    columns = list(dict.fromkeys(k for row in table for k in row))
    return {"columns": columns, "rows": [[_cell(row.get(c)) for c in columns] for row in table]}


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} = {_cell(v)}" for k, v in value.items()) or DASH
    if isinstance(value, (list, tuple)):
        return " · ".join(_cell(v) for v in value) or DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 3)


def prior_image(plot: str | os.PathLike[str] | bytes | None) -> tuple[str, str]:
    """``data:`` URI of the prior plot, and a note where there is none."""
    if plot is None:
        return "", "No plot of the prior fits was given."
    if isinstance(plot, bytes):
        data = plot
    else:
        try:
            data = Path(plot).read_bytes()
        except OSError as error:
            return "", f"The plot of the prior fits could not be read: {error}"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    elif b"<svg" in data[:1000]:
        kind = "svg+xml"
    else:
        return "", "The plot of the prior fits is neither a PNG nor an SVG."
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", ""
