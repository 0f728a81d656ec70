"""Batches of texts by their number of tokens."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

BATCHES_PER_BUDGET = 16
"""A batch costs, whatever is in it, as much as this part of its budget of tokens."""


def token_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Pack texts into batches that waste little padding and fit a budget.

    What a batch costs is its padded size, rows × longest row, and something for being a batch at all
    (`1 / BATCHES_PER_BUDGET` of the budget). Over the texts sorted by length, the cuts are those of
    the least cost in sum. The longest come first: if a device is too small for the budget, the first
    batch shows it.

    Args:
        lengths: Tokens of each text.
        max_batch_tokens: The padded size that no batch exceeds, save one text that does so alone.

    Returns:
        Batches of indices into `lengths`, every index once; the same for the same arguments.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    sizes = np.array([lengths[i] for i in order], np.int64)
    count = len(order)
    # least[i]: cost of the first i texts; came_from[i]: where the last of their batches begins.
    least = np.zeros(count + 1, np.int64)
    came_from = np.zeros(count + 1, np.int64)
    begins = np.arange(count)
    first = 0
    for end in range(1, count + 1):
        while first < end - 1 and (end - first) * sizes[first] > max_batch_tokens:
            first += 1
        cost = least[first:end] + (end - begins[first:end]) * sizes[first:end]
        best = int(cost.argmin())
        least[end] = cost[best] + max_batch_tokens // BATCHES_PER_BUDGET
        came_from[end] = first + best
    batches: list[list[int]] = []
    end = count
    while end:
        begin = int(came_from[end])
        batches.append(order[begin:end])
        end = begin
    return batches[::-1]


def even_batches(lengths: Sequence[int], max_batch_tokens: int, ways: int) -> list[list[int]]:
    """As `token_batches`, for a model that pads nothing, and so many batches at a time.

    Args:
        lengths: Tokens of each text.
        max_batch_tokens: What no batch exceeds by more than its last text.
        ways: How many batches are calculated at once.

    Returns:
        Batches of indices into `lengths`, every index once, the longest texts first. As few as fit, in
        a multiple of `ways` unless there are fewer texts, and all of about as many tokens.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    ends = np.cumsum([lengths[i] for i in order])
    total = sum(lengths)
    count = ways * max(1, -(-total // (max_batch_tokens * ways)))
    inner = 1 + np.searchsorted(ends, [total * part / count for part in range(1, count)])
    cuts = [0, *inner.tolist(), len(order)]
    return [batch for begin, end in pairwise(cuts) if (batch := order[begin:end])]
