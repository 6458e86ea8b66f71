"""Format values of the report as text, and as data that is safe to embed in HTML."""

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
    """Format a number for the page; None and values that are not finite become a dash."""
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", "\u202f")
    real = float(value)
    if not math.isfinite(real):
        return DASH
    if real != 0 and (abs(real) >= 1e5 or abs(real) < 10.0 ** (-digits - 1)):
        return f"{real:.2e}"
    return f"{real:.{digits}f}"


def script_json(value: Any) -> str:
    """Return JSON that is safe inside a ``<script>`` element."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for raw, safe in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(raw, safe)
    return Markup(text)


def printable(value: Any) -> Any:
    """Convert nested values to JSON types; numbers that are not finite become text."""
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
    """Return column names and cells of the prior table; nested values become text."""
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
    """Return the prior plot as a ``data:`` URI, or an empty string and the reason."""
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
        return "", "The plot of the prior fits is neither PNG nor SVG."
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", ""
