"""Batches of texts by their number of tokens."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

BATCHES_PER_BUDGET = 16
"""The fixed cost of a batch, whatever is in it: this fraction of its token budget."""


def token_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Pack texts into batches that waste little padding and fit a token budget.

    The cost of a batch is its padded size (rows × longest row) plus a fixed cost of
    `1 / BATCHES_PER_BUDGET` of the budget. The texts are sorted by length and divided where the total
    cost is least. The longest come first: if the device has too little memory for the budget, the
    first batch shows it.

    Args:
        lengths: Tokens of each text.
        max_batch_tokens: The most tokens of a batch, padding included. A longer text gets a batch of
            its own.

    Returns:
        Batches of indices into `lengths`, every index once; the same for the same arguments.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    sizes = np.array([lengths[i] for i in order], np.int64)
    count = len(order)
    # least[i]: the least cost of the first i texts; came_from[i]: where their last batch begins.
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
    """As `token_batches`, but for a model without padding that calculates several batches at once.

    Args:
        lengths: Tokens of each text.
        max_batch_tokens: The budget. A batch may exceed it by its last text.
        ways: How many batches are calculated at the same time.

    Returns:
        Batches of indices into `lengths`, every index once, the longest texts first. All have about
        the same number of tokens. There are as few as fit, but a multiple of `ways` (fewer only if
        there are fewer texts).
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    ends = np.cumsum([lengths[i] for i in order])
    total = sum(lengths)
    count = ways * max(1, -(-total // (max_batch_tokens * ways)))
    inner = 1 + np.searchsorted(ends, [total * part / count for part in range(1, count)])
    cuts = [0, *inner.tolist(), len(order)]
    return [batch for begin, end in pairwise(cuts) if (batch := order[begin:end])]
