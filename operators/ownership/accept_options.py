"""Findings that a user may accept at a start (`--accept-…`), and what each acceptance costs."""

from collections.abc import Mapping
from enum import StrEnum


class Accept(StrEnum):
    """A finding that the user accepts for one start; the option is `--accept-` and the value."""

    LOST_STATE = "lost-state"
    OLDER_STATE = "older-state"
    OTHER_CONTRACT = "other-contract"
    OTHER_COLLECTION = "other-collection"
    RECREATED_TOPIC = "recreated-topic"
    MISSED_RECORDS = "missed-records"


LOST: Mapping[Accept, str] = {
    Accept.LOST_STATE: "reads the topic from its beginning; a row that was deleted may show again "
    "until its delete is read, and for good if that is no longer in the topic",
    Accept.OLDER_STATE: "goes on from the older state; a row that was deleted since then may show "
    "again until its delete is read",
    Accept.OTHER_CONTRACT: "goes on; rows that do not change any more keep what the other contract "
    "made of them",
    Accept.OTHER_COLLECTION: "goes on from where the state is; rows that do not change any more stay "
    "missing, or old",
    Accept.RECREATED_TOPIC: "reads the topic from its beginning; what the old one held and was not "
    "read is lost, and rows that were deleted meanwhile stay",
    Accept.MISSED_RECORDS: "reads from the oldest record that is there; the changes in between are "
    "lost until their rows change again, or Debezium makes a snapshot",
}
"""For each: what the flow does then, and what is lost. Part of messages: "The flow …"."""
