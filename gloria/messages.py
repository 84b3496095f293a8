"""Makes messages: text from files safe to print, without control characters and cut, and numbers with their nouns."""

import re
import reprlib

LINE = 2_000  # most characters of a line
PATH = 300  # most characters of a path in a line
MESSAGE = 100_000  # most characters of a message of several lines

# Control characters, Unicode line breaks, marks that change the writing direction, and lone surrogates.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlist = _short.maxtuple = _short.maxdict = 20
_short.maxlevel = 3


def shown(value: object) -> str:
    """Return a short `repr` of a value from a file, however large or deeply nested the value is."""
    return _short.repr(value)


def counted(number: int, noun: str) -> str:
    """Return a number with a noun whose plural ends in s: "1 row", "2 rows"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plain(text: str, most: int = LINE) -> str:
    """Return text as one safe line: control characters escaped, at most `most` characters of the text."""
    more = len(text) - most
    return _CONTROL.sub(_escape, text[:most]) + (f" … ({more:,} more characters)" if more > 0 else "")


def plain_lines(text: str) -> str:
    """Apply `plain` to each line of a message, which is cut to `MESSAGE` characters."""
    more = len(text) - MESSAGE
    lines = [plain(line) for line in text[:MESSAGE].split("\n")]
    return "\n".join(lines) + (f" … ({more:,} more characters)" if more > 0 else "")


def _escape(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
