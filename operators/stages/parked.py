"""Changes that wait in a checkpoint, and whose table the contract no longer names."""

from collections.abc import Collection

from operators.changes.events import Truncate
from operators.changes.row_key import encoded
from operators.changes.rows import Winner
from operators.errors import FatalError


class ParkedChanges:
    """Keeps such changes in the checkpoint, unwritten, until their table comes back.

    They were read and not written when the flow was killed, so no offset leads back to them.

    Args:
        topics: Topics of the contract.
        tables: Names of its tables.
    """

    def __init__(self, topics: Collection[str], tables: Collection[str]) -> None:
        self._topics = topics
        self._tables = frozenset(map(encoded, tables))
        self.rows: list[Winner] = []
        self.truncates: list[Truncate] = []

    def keeps_row(self, change: Winner) -> bool:
        """Whether a change is one of these; then it is kept here.

        Raises:
            FatalError: Its table is in the contract, with another topic. Offsets of two topics cannot
                be compared, so it may neither be written nor dropped.
        """
        topic = change.position.topic
        if topic in self._topics:
            return False
        self._refuse_renamed(change.row_key.partition(":")[0], topic)
        self.rows.append(change)
        return True

    def keeps_truncate(self, truncate: Truncate) -> bool:
        """The same for a TRUNCATE."""
        topic = truncate.position.topic
        if topic in self._topics:
            return False
        self._refuse_renamed(encoded(truncate.table), topic)
        self.truncates.append(truncate)
        return True

    def _refuse_renamed(self, table: str, topic: str) -> None:
        if table in self._tables:  # guard: parked-renamed
            raise FatalError(
                subject=f"table {table}",
                cause=f"changes that were read from topic {topic} are not written yet, because the "
                "flow was killed, and the contract now names another topic",
                hint=f"put topic {topic} back, start the flow, stop it cleanly (SIGTERM), and then "
                "change the topic; or start with an empty recovery directory: they are lost then",
            )
