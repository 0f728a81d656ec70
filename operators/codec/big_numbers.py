"""Integers of thousands of digits, in time that does not grow with the square of their size.

Python's own conversions from binary to decimal hold the interpreter's lock for minutes at a megabyte.
"""

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation

EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])
"""Arithmetic that never rounds."""

_SMALL_BITS = 1_024


def decimal_of(number: int) -> Decimal:
    """A whole number as a decimal: parts of it are converted, and put together by multiplication."""
    size = abs(number)
    powers = [1 << _SMALL_BITS]  # each is the square of the one before
    decimals = [Decimal(powers[0])]
    while powers[-1] <= size:
        powers.append(powers[-1] ** 2)
        decimals.append(EXACT.multiply(decimals[-1], decimals[-1]))

    def converted(part: int, level: int) -> Decimal:
        if level < 0:
            return Decimal(part)
        bits = _SMALL_BITS << level
        high, low = part >> bits, part & (powers[level] - 1)
        lower = converted(low, level - 1)
        if not high:
            return lower
        return EXACT.add(EXACT.multiply(converted(high, level - 1), decimals[level]), lower)

    found = Decimal(size) if len(powers) == 1 else converted(size, len(powers) - 2)
    return found.copy_negate() if number < 0 else found
