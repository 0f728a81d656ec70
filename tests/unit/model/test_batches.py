import itertools
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.changes.text_hash import text_hash
from operators.model.batches import BATCHES_PER_BUDGET, even_batches, token_batches
from operators.model.protocol import Embedder
from tests.fakes import HashEmbedder

LENGTHS = st.lists(st.integers(0, 600), max_size=200)
BUDGET = st.integers(1, 4_096)


WAYS = st.integers(1, 16)
CUTS = pytest.mark.parametrize("cut", [token_batches, partial(even_batches, ways=3)])


@CUTS
@given(lengths=LENGTHS, budget=BUDGET)
def test_every_text_is_in_one_batch(cut, lengths, budget):
    batches = cut(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, BUDGET)
def test_the_padded_cost_keeps_to_the_budget_or_the_text_is_alone(lengths, budget):
    for batch in token_batches(lengths, budget):
        cost = len(batch) * max(lengths[index] for index in batch)
        assert cost <= budget or len(batch) == 1


@given(LENGTHS, BUDGET, WAYS)
def test_without_padding_all_batches_are_about_even(lengths, budget, ways):
    batches = [[lengths[i] for i in batch] for batch in even_batches(lengths, budget, ways)]
    most = ways * math.ceil(sum(lengths) / budget / ways)
    assert len(batches) <= max(ways, most)
    for batch in batches:
        assert sum(batch[:-1]) <= sum(lengths) / max(ways, most) <= budget


@pytest.mark.parametrize(("texts", "batches"), [(1, 1), (2, 2), (4, 4), (5, 4), (64, 4), (65, 8)])
def test_every_core_has_a_batch_where_there_are_texts_enough(texts, batches):
    made = even_batches([16] * texts, 256, 4)
    assert len(made) == batches
    assert max(map(len, made)) - min(map(len, made)) <= 1


@CUTS
@given(lengths=LENGTHS, budget=BUDGET)
def test_lengths_fall_over_all_batches(cut, lengths, budget):
    packed = [lengths[index] for batch in cut(lengths, budget) for index in batch]
    assert packed == sorted(lengths, reverse=True)


@given(st.lists(st.integers(0, 40), max_size=9), st.integers(1, 200))
def test_no_other_cut_costs_less(lengths, budget):
    def cost(batches):
        padded = sum(len(batch) * max(batch) for batch in batches)
        return padded + len(batches) * (budget // BATCHES_PER_BUDGET)

    falling = sorted(lengths, reverse=True)
    allowed = []
    for cuts in itertools.product([False, True], repeat=max(0, len(falling) - 1)):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(falling)]
        batches = [falling[a:b] for a, b in itertools.pairwise([0, *ends]) if a < b]
        if all(len(b) == 1 or len(b) * b[0] <= budget for b in batches):
            allowed.append(cost(batches))
    ours = [[lengths[index] for index in batch] for batch in token_batches(lengths, budget)]
    assert cost(ours) == min(allowed)


@CUTS
@given(lengths=LENGTHS, budget=BUDGET)
def test_batches_depend_on_nothing_but_the_arguments(cut, lengths, budget):
    assert cut(lengths, budget) == cut(tuple(lengths), budget)


def test_packing_by_example():
    assert token_batches([], 8) == []
    assert token_batches([2, 9, 2, 4, 4], 8) == [[1], [3, 4], [0, 2]]
    # One batch of five would fit, but most of it would be padding.
    assert token_batches([100, 10, 10, 10, 10], 600) == [[0], [1, 2, 3, 4]]
    assert token_batches([0, 0], 8) == [[0, 1]]


def test_the_fake_keeps_the_protocol():
    fake = HashEmbedder(dim=16)
    embedder: Embedder = fake
    vectors = embedder.embed(["a", "b", "a"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 16)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors, HashEmbedder(dim=16).embed(["a", "b", "a"]))
    assert embedder.embed([]).shape == (0, 16)
    assert fake.calls == [2, 0]


@given(st.text("ab \n\t🦆", max_size=60), st.integers(1, 9), st.integers(0, 4))
def test_the_fake_cuts_as_the_protocol_says(text, max_tokens, overlap):
    overlap = min(overlap, max_tokens // 2)
    ranges = HashEmbedder().chunks(text, max_tokens, overlap)
    starts, ends = zip(*ranges, strict=True)
    assert (starts[0], ends[-1]) == (0, len(text))
    assert all(len(text[start:end].split()) <= max_tokens for start, end in ranges)
    for (first, end), (second, behind) in itertools.pairwise(ranges):
        assert first < second <= end < behind
        assert len(text[second:end].split()) == overlap


def test_a_digest_stands_for_its_text():
    assert text_hash("Grüße") == "c483baa27a9abd2202924662a88aaf32"
    assert len({text_hash(text) for text in ("", "a", "a ", "\ud800", "\udfff", "\ufffd")}) == 6
