"""Text of a user's files for the terminal: control characters are written as escapes."""

from __future__ import annotations

import unicodedata

#: characters that only format text, and are kept
_KEPT = "\n\t"
#: categories of characters that a terminal may obey: control, format (such as text direction), surrogates
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def plain(text: object) -> str:
    """Return the text with control characters as escapes: ESC becomes ``\\x1b``.

    Names and messages come from files of others, and a terminal would obey its codes in them.
    """
    found = str(text)
    if found.isascii() and found.isprintable():
        return found
    return "".join(c if c in _KEPT or unicodedata.category(c) not in _OBEYED else _escape(c) for c in found)


def has_control(text: str) -> bool:
    """Return whether a text has characters that :func:`plain` escapes, or more than one line."""
    return plain(text) != text or "\n" in text


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
