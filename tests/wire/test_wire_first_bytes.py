"""A connection that breaks within the server's first frame says nothing about what the server did."""

from __future__ import annotations

import pytest

from pytikv.wire.diagnose import may_be_http2

SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"


@pytest.mark.parametrize("length", range(len(SETTINGS) + 1))
def test_any_beginning_of_a_settings_frame_may_be_http2(length: int) -> None:
    """Requests were sent with the preface and may have been carried out: their outcome is unknown."""
    assert may_be_http2(SETTINGS[:length])


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 400", b"\x15\x03\x01", b"\x16", b"\x00\x00\x06\x01", b"SSH-2.0"])
def test_other_protocols_are_not(first: bytes) -> None:
    assert not may_be_http2(first)
