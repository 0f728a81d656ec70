"""What the lists in `tests/mutation/guards/` are made of."""

from typing import NamedTuple

from tests.mutation.mutations import Mutation


class Guard(NamedTuple):
    """One guard of the product. Where it stands is told by the comment `# guard: <name>` there.

    Attributes:
        name: Its name in that comment and on the command line.
        holds: What is true thanks to it, in words.
        mutation: How it is taken out. The program must still run then; it only no longer guards.
        tests: What to give to pytest: a fast selection, of which a test must go red.
    """

    name: str
    holds: str
    mutation: Mutation
    tests: tuple[str, ...]
