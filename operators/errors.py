"""Error types, named by what to do next.

Every error that a user can meet names the subject (what it is about), the cause (what happened) and
the hint (what to do about it). The type says who acts on it:

- `FatalError`: the flow must not go on; the process ends non-zero with the message.
- `RetriableError`: the same call may succeed later; the caller backs off, within bounds.
- `RecordError`: this one record can never succeed; it becomes a dead letter and the rest goes on.
"""

from collections.abc import Sequence

from operators.printable import printable_message


class RowvecError(Exception):
    """Base of all errors that Rowvec raises on purpose.

    Args:
        subject: What it is about: a key of the contract, a topic, an entity id.
        cause: What happened, as a clause without a full stop.
        hint: What the reader can do about it, as a clause without a full stop.
        details: The parts of the cause, each printed on a line of its own.

    The parts may hold names from outside as they are: `str()` escapes control characters in them.
    """

    def __init__(
        self, *, subject: str, cause: str, hint: str = "", details: Sequence[str] = ()
    ) -> None:
        self.subject = subject
        self.cause = cause
        self.hint = hint
        self.details = tuple(details)
        super().__init__(subject, cause, hint)

    def __str__(self) -> str:
        # guard: error-printable
        lines = [
            printable_message(each) for each in (f"{self.subject}: {self.cause}", *self.details)
        ]
        hint = printable_message(f"{self.hint[:1].upper()}{self.hint[1:]}.") if self.hint else ""
        if self.details:
            return "\n  - ".join(lines) + (f"\n{hint}" if hint else "")
        return f"{lines[0]}. {hint}" if hint else f"{lines[0]}."

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only constructors do not survive pickling (and Bytewax pickles between processes).
        return _rebuild, (type(self), self.subject, self.cause, self.hint, self.details)


class FatalError(RowvecError):
    """The flow cannot go on, or must not; a person has to act first."""


class ContractError(FatalError):
    """The contract or its environment is wrong; found before the first message is read."""


class RetriableError(RowvecError):
    """The call may succeed later: a store that is down, overloaded, or slow."""


class RecordError(RowvecError):
    """This record cannot be applied, now or ever; the others can."""


def _rebuild(
    kind: type[RowvecError], subject: str, cause: str, hint: str, details: tuple[str, ...] = ()
) -> RowvecError:
    return kind(subject=subject, cause=cause, hint=hint, details=details)
