"""Masks: how a column's value is replaced before any other code sees it.

- `drop` makes it NULL.
- `hmac` makes it 32 hex digits: the first half of HMAC-SHA256 over the value as text, under the
  contract's `hmac_key` and nothing else. Equal values are equal in every table and column, so that
  joins between collections still work, and whoever holds the key can compute what to search for:
  `hmac.new(key, value, "sha256").hexdigest()[:32]`. The price: whoever sees two masked columns sees
  where they are equal. A number equals a text that spells it the same way.
- `redact` replaces whatever a pattern matches, in texts and in every text and number of an array or
  an object, its names included; if two names become equal, the later one stays. A value without a
  match is unchanged; one with a match becomes text if it was not. In JSON text, the characters that
  escapes stand for are searched as well, because a mirrored field would show them; if such a text has a
  name twice in one object, only the later member stays, as in SQL's jsonb.

NULL stays NULL. The caller must test for Debezium's placeholder before masking. A value that cannot be
masked is refused, never let through.
"""

import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import regex

from operators.changes import exact_json
from operators.changes.exact_json import number_of
from operators.codec.temporal import Moment
from operators.codec.text import as_text
from operators.contract.sections import MaskingSection
from operators.contract.table import Mask, TableSection
from operators.errors import ContractError, RecordError

DIGEST_HEX_DIGITS = 32
"""128 bits: two of a billion values share a digest with a probability of 1 in 10^21."""


class Masker:
    """Masks the columns of one table. Its patterns are compiled once.

    Attributes:
        columns: The columns that have a mask.

    Raises:
        ContractError: A column is masked by hmac, and there is no key.
    """

    def __init__(self, table: TableSection, section: MaskingSection) -> None:
        self._topic = table.topic
        self._masks = {
            column: self._made(column, mask, section) for column, mask in table.masks.items()
        }
        self.columns = frozenset(self._masks)

    def value(self, column: str, value: Any) -> Any:
        """The masked value of one of `columns`.

        Args:
            column: Its name.
            value: The canonical value, see `operators.codec.logical_types`.

        Raises:
            RecordError: A pattern takes too long, or the value is nested too deep.
            KeyError: The column has no mask.
        """
        mask = self._masks[column]
        if value is None:
            return None
        try:
            return mask(value)
        except (RecursionError, ValueError, TypeError):
            raise RecordError(
                subject=f"column '{column}' of {self._topic}",
                cause="its value is nested too deep to be masked, or is none that a column can have",
                hint="drop the column, or leave it out in the connector (column.exclude.list)",
            ) from None

    def _made(self, column: str, mask: Mask, section: MaskingSection) -> Callable[[Any], Any]:
        match mask.kind:
            case "drop":
                return lambda _: None
            case "hmac":
                if section.hmac_key is None:
                    raise ContractError(
                        subject="hmac_key in [masking]",
                        cause=f"column '{column}' of {self._topic} is masked by hmac, which needs it",
                        hint="set ROWVEC_MASKING__HMAC_KEY",
                    )
                key = section.hmac_key.get_secret_value().encode()
                return lambda value: _digest(key, value)
            case "redact":
                subject = f"column '{column}' of {self._topic}"
                return _Redaction(subject, mask, section.pattern_timeout_ms).value


def _digest(key: bytes, value: Any) -> str:
    # A lone surrogate is not valid UTF-8, but the value must be masked all the same.
    text = as_text(value).encode(errors="surrogatepass")
    return hmac.digest(key, text, "sha256").hex()[:DIGEST_HEX_DIGITS]


class _Redaction:
    """Replaces what the patterns match; each pattern has its own time limit for each value."""

    def __init__(self, subject: str, mask: Mask, timeout_ms: int) -> None:
        self._subject = subject
        self._patterns = [regex.compile(pattern) for pattern in mask.patterns]
        self._replacement = mask.replacement
        self._timeout_ms = timeout_ms

    def value(self, value: Any) -> Any:
        left = [self._timeout_ms / 1_000] * len(self._patterns)
        return self._searched(value, left)

    def _searched(self, value: Any, left: list[float]) -> Any:
        match value:
            case str():
                return self._text(self._unescaped(value, left), left)  # guard: mask-escapes
            case None:
                return None
            case Mapping():
                return {
                    self._text(as_text(name), left): self._searched(each, left)
                    for name, each in value.items()
                }
            case list() | tuple() if not isinstance(value, Moment):
                return [self._searched(each, left) for each in value]
            case _:
                text = as_text(value)
                redacted = self._text(text, left)
                return value if redacted == text else redacted

    def _unescaped(self, text: str, left: list[float]) -> str:
        """The text, or, if it is JSON whose escapes hide a match (an @ in hex, say), redacted JSON."""
        if "\\" not in text or not text.lstrip().startswith(("{", "[", '"')):
            return text
        twice: list[object] = []

        def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) < len(pairs):
                twice.append(found)
            return found

        try:
            value = json.loads(
                text, object_pairs_hook=members, parse_float=number_of, parse_int=number_of
            )
        except ValueError:
            return text
        redacted = self._searched(value, left)
        # Of two members of one name only the later one was searched, so only that one may stay.
        if redacted == value and not twice:  # guard: mask-twice
            return text
        # An escape can also spell a lone surrogate, which is not valid text.
        return exact_json.dumps(redacted).encode(errors="replace").decode()

    def _text(self, text: str, left: list[float]) -> str:
        for number, pattern in enumerate(self._patterns):
            started = time.monotonic()
            try:
                # A function, because a string is a template in which `\g<0>` is the value itself.
                text = pattern.sub(lambda _: self._replacement, text, timeout=left[number])
            except TimeoutError:
                left[number] = 0.0
            else:
                left[number] -= time.monotonic() - started
            if left[number] <= 0:  # guard: mask-refuses
                raise RecordError(
                    subject=self._subject,
                    cause=f"pattern {number + 1} of its mask searched for more than "
                    f"{self._timeout_ms} ms",
                    hint="make the pattern simpler, or raise pattern_timeout_ms in [masking]",
                )
        return text
