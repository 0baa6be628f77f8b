"""Latches: who excludes whom."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.server.storage.latches import Latches


@given(st.lists(st.binary(max_size=4)))
def test_slots_are_taken_once_and_in_order(keys: list[bytes]) -> None:
    numbers = Latches(8).numbers(keys)
    assert numbers == sorted(set(numbers))
    assert set(numbers) == {Latches(8).numbers([key])[0] for key in keys}


def is_free(latches: Latches, key: bytes) -> bool:
    """Tell whether another thread can take the latch of `key`."""
    taken = threading.Event()

    def take() -> None:
        with latches.hold([key]):
            taken.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(0.05 if not taken.is_set() else None)
    return taken.is_set()


def test_a_key_is_kept_from_others_while_it_is_held() -> None:
    latches = Latches(1 << 16)
    keys = [b"%d" % i for i in range(5)]
    with latches.hold(keys):
        with latches.hold(keys[:1]):  # the same thread may enter again
            pass
        assert not is_free(latches, keys[3])
        assert is_free(latches, b"another")
    assert all(is_free(latches, key) for key in keys)


def test_an_exception_gives_the_latches_back() -> None:
    latches = Latches()
    with pytest.raises(KeyError), latches.hold([b"a", b"b"]):
        raise KeyError
    assert is_free(latches, b"a")
    assert is_free(latches, b"b")


def test_crossing_holders_never_wait_for_each_other_in_a_circle() -> None:
    latches = Latches(4)
    total = [0]

    def work(number: int) -> None:
        for i in range(500):
            keys = [b"%d" % ((number * 7 + i * k) % 10) for k in range(1, 5)]
            with latches.hold(keys), latches.hold(keys[::-1]):
                pass
        with latches.hold([b"total"]):
            total[0] += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert total == [8]
