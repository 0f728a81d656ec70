"""Error types, named by what to do next.

Every error that a user can meet names the subject (what it is about), the cause (what happened) and
the hint (what to do about it). The type says who acts on it:

- `FatalError`: the flow must not go on; the process ends non-zero with the message.
- `RetriableError`: the same call may succeed later; the caller backs off, within bounds.
- `RecordError`: this one record can never succeed; it becomes a dead letter and the rest goes on.
"""


class RowvecError(Exception):
    """Base of all errors that Rowvec raises on purpose.

    Args:
        subject: What it is about: a key of the contract, a topic, an entity id.
        cause: What happened, as a clause without a full stop.
        hint: What the reader can do about it, as a clause without a full stop.
    """

    def __init__(self, *, subject: str, cause: str, hint: str = "") -> None:
        self.subject = subject
        self.cause = cause
        self.hint = hint
        super().__init__(subject, cause, hint)

    def __str__(self) -> str:
        text = f"{self.subject}: {self.cause}."
        return f"{text} {self.hint[0].upper()}{self.hint[1:]}." if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only constructors do not survive pickling (and Bytewax pickles between processes).
        return _rebuild, (type(self), self.subject, self.cause, self.hint)


class FatalError(RowvecError):
    """The flow cannot go on, or must not; a person has to act first."""


class ContractError(FatalError):
    """The contract or its environment is wrong; found before the first message is read."""


class RetriableError(RowvecError):
    """The call may succeed later: a store that is down, overloaded, or slow."""


class RecordError(RowvecError):
    """This record cannot be applied, now or ever; the others can."""


def _rebuild(kind: type[RowvecError], subject: str, cause: str, hint: str) -> RowvecError:
    return kind(subject=subject, cause=cause, hint=hint)
