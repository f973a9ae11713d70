"""Held-out parts and balanced subsets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimmable.errors import DataError
from slimmable.tasks.images.splits import balanced_subset, hold_out, seeded_generator

CLASSES = ["ant", "bee", "cat"]
label_lists = st.lists(st.integers(0, 2), min_size=6, max_size=60).map(lambda drawn: [0, 0, 1, 1, 2, 2, *drawn])
seeds = st.integers(0, 5)


@settings(deadline=None, max_examples=50)
@given(label_lists, st.floats(0.01, 0.99), seeds)
def test_held_out_part_and_rest_are_the_whole_with_every_class_in_both(drawn, fraction, seed):
    labels = torch.tensor(drawn)

    kept, held = hold_out(labels, fraction, seed=seed, classes=CLASSES)

    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    for label in range(3):
        count = int((labels == label).sum())
        found = int((labels[held] == label).sum())
        assert 1 <= found <= count - 1
        assert abs(found - fraction * count) <= 1


@settings(deadline=None, max_examples=50)
@given(label_lists, seeds, st.data())
def test_subset_is_as_balanced_as_the_classes_allow_and_within_larger_ones(drawn, seed, data):
    labels = torch.tensor(drawn)
    samples = data.draw(st.integers(1, len(labels)))

    found = balanced_subset(labels, samples, seed=seed)

    assert len(set(found.tolist())) == samples
    counts, all_counts = (torch.bincount(part, minlength=3).tolist() for part in (labels[found], labels))
    most = max(counts)
    assert all(count >= most - 1 or count == total for count, total in zip(counts, all_counts, strict=True))
    larger = balanced_subset(labels, min(samples + 3, len(labels)), seed=seed)
    assert set(found.tolist()) <= set(larger.tolist())


def test_choice_depends_on_the_seed_alone():
    labels = torch.arange(90) % 3
    torch.manual_seed(0)
    first = hold_out(labels, 0.3, seed=1, classes=CLASSES)[1]
    torch.manual_seed(1)
    assert torch.equal(first, hold_out(labels, 0.3, seed=1, classes=CLASSES)[1])
    assert not torch.equal(first, hold_out(labels, 0.3, seed=2, classes=CLASSES)[1])
    assert torch.equal(balanced_subset(labels, 9, seed=1), balanced_subset(labels, 9, seed=1))
    assert not torch.equal(balanced_subset(labels, 9, seed=1), balanced_subset(labels, 9, seed=2))


def test_class_too_small_to_be_split_is_named():
    with pytest.raises(DataError, match="class 'bee' has 1 training images"):
        hold_out(torch.tensor([0, 0, 1, 2, 2]), 0.5, seed=0, classes=CLASSES)


def test_subset_larger_than_the_whole_is_refused():
    with pytest.raises(DataError, match="4 samples were asked for, but there are 3"):
        balanced_subset(torch.tensor([0, 1, 2]), 4, seed=0)


def test_generators_of_different_parts_differ_and_leave_the_default_one_alone():
    before = torch.get_rng_state()
    drawn = {parts: torch.rand(4, generator=seeded_generator(*parts)) for parts in [(0,), (0, 0), (0, 1), (1, 0)]}
    assert len({tuple(values.tolist()) for values in drawn.values()}) == 4
    assert torch.equal(before, torch.get_rng_state())
