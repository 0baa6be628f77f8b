"""Fingerprint64 against vectors that Google's C++ code produced, by way of two other implementations.

Up to 64 bytes Hash64 is the same.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.codec.farmhash import fingerprint64

BY_LENGTH = {
    0: 0x9AE16A3B2F90404F,
    1: 0xBE6056EDF5E94B54,
    3: 0x6CC1A093E8224428,
    4: 0x05112B9E6277F665,
    7: 0x0F95C16A7544A65B,
    8: 0xDC480BBCE8C737A7,
    16: 0xFBB2740319962D9B,
    17: 0xA55B9970B7B70074,
    32: 0x0A9D86AA8D37DA5C,
    33: 0xFB43F626C43B2047,
    63: 0xC039096AD237E446,
    64: 0xE0446DD71A78F98A,
    65: 0x184A25714B2CE96B,
    127: 0xA67E0AC14CAA8C22,
    128: 0xA7B5B6228208C47B,
    129: 0xECB25D796437D25B,
    1000: 0x953AAFCC827B1B7F,
}


@pytest.mark.parametrize("size", BY_LENGTH)
def test_every_length_has_its_own_way(size: int) -> None:
    data = bytes(i * 7 % 256 for i in range(size))
    assert fingerprint64(data) == BY_LENGTH[size]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a", 0xB3454265B6DF75E3),
        (b"abcdefghij", 0x8A3ABB6A5F3FB7FB),
        (b"Nepal premier won't resign.", 0x8EB3808D1CCFC779),
        (b"Discard medicine more than two years old.", 0xE8F89AB6DF9BDD25),
    ],
)
def test_published_vectors(text: bytes, expected: int) -> None:
    assert fingerprint64(text) == expected


@given(st.binary(max_size=300))
def test_it_is_a_number_of_64_bits(data: bytes) -> None:
    assert 0 <= fingerprint64(data) < 1 << 64
