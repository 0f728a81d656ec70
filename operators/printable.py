"""What may be printed: no control characters from outside, and no credentials.

Names of columns, topics and files, and values in dead letters, come from outside. Printed as they are,
an escape sequence in one would command the terminal, and a line break would forge a line of the log.
"""

import logging
import re
from types import TracebackType

_HARMFUL = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0 with its line breaks, DEL, and C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029"  # line and paragraph separators
    "\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"  # what is invisible
    "\U000e0000-\U000e007f"
    "\ud800-\udfff"  # halves of a surrogate pair, which no encoding can write
    "]"
)

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_ANOTHER = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")

_USER = re.compile(r"""(://)(?!user:password@host[:/])(?:[^\s/@:'"]+|[^\s/@'"]*:[^\s'"]*)@""")
"""User and password in an address: up to the last `@`, since a password may hold any character.

The words that stand for them in a hint of Rowvec's are none.
"""


def printable(text: str) -> str:
    """The text with its control characters escaped; doing it twice changes nothing."""
    return text if text.isascii() and text.isprintable() else _HARMFUL.sub(_escape, text)


def printable_message(text: str) -> str:
    """As `printable`, and the addresses in it without user and password: other programs' words."""
    return printable(_USER.sub(r"\1", text) if "@" in text else text)


def _escape(found: re.Match[str]) -> str:
    character = found.group()
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_printable(text: str) -> str:
    """JSON text with the same characters escaped the way JSON escapes them.

    A JSON writer escapes the ASCII ones in strings; the others it may leave as they are. Between the
    strings there are none of them but line breaks and tabs, which stay.
    """
    return _HARMFUL.sub(_escape_in_json, text)


def _escape_in_json(found: re.Match[str]) -> str:
    character = found.group()
    if character in _SHORT:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def without_credentials(address: str) -> str:
    """An address, or several with commas between them, without user and password.

    A password that is not percent-encoded can hold any character, even `/`, which would end it for a
    parser of URLs. So everything up to the last `@` of an address is left out.
    """
    return ",".join(_bare(each) for each in _ANOTHER.split(address))


def _bare(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    return scheme + separator + rest.rpartition("@")[2]  # guard: no-credentials


class LogFormatter(logging.Formatter):
    """Writes one line for a log message, and a traceback below it indented, so that none is forged."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, printable."""
        return printable_message(super().formatMessage(record))  # guard: log-printable

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """The traceback, each line printable and indented."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    {printable_message(line)}" for line in lines)
