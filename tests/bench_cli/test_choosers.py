"""The choosers give what they promise: frequencies, coverage, growth."""

from __future__ import annotations

import functools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.bench.choosers import CHOOSERS, Hotspot, Latest, Uniform, Zipfian, ZipfianRank, make_chooser, scattered
from pytikv.errors import ConfigError

DRAWS = 60_000


def counts(chooser, count: int, draws: int = DRAWS) -> Counter[int]:
    dice = random.Random(5)
    return Counter(chooser.choose(dice, count) for _ in range(draws))


@given(st.sampled_from(CHOOSERS), st.integers(1, 3000), st.integers(0, 2**32))
def test_every_choice_is_a_record(name: str, count: int, seed: int) -> None:
    chooser, dice = make_chooser(name), random.Random(seed)
    for size in (count, count + 7, max(1, count - 3), 1):
        assert all(0 <= chooser.choose(dice, size) < size for _ in range(20))


def test_zipfian_ranks_have_zipfs_frequencies() -> None:
    count = 1000
    found = counts(ZipfianRank(), count)
    harmonic = sum(rank**-0.99 for rank in range(1, count + 1))
    for rank in (0, 1):  # exact by construction; the approximation is for those behind
        expected = DRAWS * (rank + 1) ** -0.99 / harmonic
        assert found[rank] == pytest.approx(expected, rel=0.06)
    for low, high in ((2, 10), (10, 100), (100, 1000)):
        expected = DRAWS * sum((rank + 1) ** -0.99 for rank in range(low, high)) / harmonic
        assert sum(found[rank] for rank in range(low, high)) == pytest.approx(expected, rel=0.12)


def test_zipfian_is_as_skewed_scattered() -> None:
    found = counts(Zipfian(), 1000)
    top = [number for number, _ in found.most_common(10)]
    ranks = counts(ZipfianRank(), 1000)
    share = sum(found[number] for number in top)
    assert share == pytest.approx(sum(ranks[rank] for rank in range(10)), rel=0.15)
    assert top[0] == scattered(0) % 1000
    assert max(top) - min(top) > 500  # the popular ones are no neighbours


def test_growth_adds_up_to_the_same() -> None:
    grown, fresh = ZipfianRank(), ZipfianRank()
    for count in (10, 11, 500, 1000):
        grown.choose(random.Random(1), count)
    one, other = random.Random(9), random.Random(9)
    assert [grown.choose(one, 1000) for _ in range(500)] == [fresh.choose(other, 1000) for _ in range(500)]
    smaller = [grown.choose(random.Random(3), 10) for _ in range(5)]
    assert smaller == [ZipfianRank().choose(random.Random(3), 10) for _ in range(5)]


def test_latest_prefers_the_youngest() -> None:
    chooser = Latest()
    found = counts(chooser, 100)
    assert found.most_common(1)[0][0] == 99
    assert found[99] > found[98] > found[90] > found[10]
    assert counts(chooser, 101, 5000).most_common(1)[0][0] == 100


def test_hotspot() -> None:
    found = counts(Hotspot(0.1, 0.9), 1000)
    assert sum(found[number] for number in range(100)) == pytest.approx(0.9 * DRAWS, rel=0.02)
    assert len(found) > 990


def test_uniform() -> None:
    found = counts(Uniform(), 100)
    assert min(found.values()) > 0.8 * DRAWS / 100
    assert max(found.values()) < 1.2 * DRAWS / 100


@given(st.integers(0, 2**64 - 1))
def test_scattering_is_fnv_1a(number: int) -> None:
    expected = functools.reduce(
        lambda found, byte: (found ^ byte) * 1099511628211 % 2**64, number.to_bytes(8, "little"), 14695981039346656037
    )
    assert scattered(number) == expected


def test_unknown_distribution() -> None:
    with pytest.raises(ConfigError, match="uniform, zipfian, latest, hotspot"):
        make_chooser("pareto")
