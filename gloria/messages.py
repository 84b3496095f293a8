"""What messages may show of a file: no character that steers a terminal, and no more than a reader wants."""

import re
import reprlib

LINE = 2_000  # characters of a line
PATH = 300  # characters of a path within it
MESSAGE = 100_000  # characters of a message of several lines

# Control characters, line breaks of Unicode, marks that turn the direction of writing, and lone surrogates.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlist = _short.maxtuple = _short.maxdict = 20
_short.maxlevel = 3


def shown(value: object) -> str:
    """Quote a value from a file: its `repr`, shortened, however large, deep or often referenced its parts are."""
    return _short.repr(value)


def plain(text: str, most: int = LINE) -> str:
    """Make one line of a text that may quote a file: steering characters as escapes, cut to `most` characters."""
    more = len(text) - most
    return _STEERING.sub(_escape, text[:most]) + (f" … ({more:,} more characters)" if more > 0 else "")


def plain_lines(text: str) -> str:
    """Apply `plain` to each line of a message of ours, which is cut to `MESSAGE` characters."""
    more = len(text) - MESSAGE
    lines = [plain(line) for line in text[:MESSAGE].split("\n")]
    return "\n".join(lines) + (f" … ({more:,} more characters)" if more > 0 else "")


def _escape(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
