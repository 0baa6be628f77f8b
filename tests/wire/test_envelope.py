"""The hand-written BatchCommands envelope against protobuf, both ways, and against garbage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.codec import envelope
from pytikv.proto import kvrpcpb_pb2, tikvpb_pb2

ids = st.integers(0, (1 << 64) - 1) | st.integers(0, 300)
bodies = st.binary(max_size=40) | st.sampled_from([b"", b"x" * 127, b"x" * 128, b"x" * 2047, b"x" * 2048, b"x" * 20000])
SLOTS = {13: "RawGet", 15: "RawPut", 17: "RawDelete", 255: "Empty"}


@given(st.lists(st.tuples(st.sampled_from([13, 15, 17]), bodies, ids), max_size=6))
def test_protobuf_reads_what_we_encode(items: list[tuple[int, bytes, int]]) -> None:
    commands = []
    for slot, value, ident in items:
        if slot == 15:
            request = kvrpcpb_pb2.RawPutRequest(key=b"k", value=value)
        elif slot == 13:
            request = kvrpcpb_pb2.RawGetRequest(key=value)
        else:
            request = kvrpcpb_pb2.RawDeleteRequest(key=value)
        commands.append((slot, request.SerializeToString(), ident))
    parsed = tikvpb_pb2.BatchCommandsRequest.FromString(envelope.encode(commands))
    assert list(parsed.request_ids) == [ident for _, _, ident in items]
    for entry, (slot, body, _) in zip(parsed.requests, commands, strict=True):
        assert entry.WhichOneof("cmd") == SLOTS[slot]
        assert getattr(entry, SLOTS[slot]).SerializeToString() == body


@given(st.sampled_from([1, 13, 16, 255]), bodies, ids)
def test_one_is_the_same_as_many_with_one(slot: int, body: bytes, ident: int) -> None:
    assert envelope.encode_one(slot, body, ident) == envelope.encode([(slot, body, ident)])


@given(st.sampled_from([1, 13, 16]), bodies, bodies, ids)
def test_a_tail_is_part_of_the_body(slot: int, body: bytes, tail: bytes, ident: int) -> None:
    assert envelope.encode_one(slot, body, ident, tail) == envelope.encode_one(slot, body + tail, ident)


def read(decode: Callable[[bytes, int], list[envelope.Command]], data: bytes) -> list[envelope.Command] | None:
    try:
        return decode(data, 3)
    except envelope.EnvelopeError:
        return None


@settings(max_examples=500)
@given(
    st.sampled_from([0, 1, 13, 15, 16, 255]), bodies, ids, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)))
)
def test_lone_commands_are_read_as_any(slot: int, body: bytes, ident: int, damage: list[tuple[int, int]]) -> None:
    data = bytearray(b"abc" + envelope.encode([(slot, body, ident)]))
    assert read(envelope.decode, bytes(data)) == [(slot, body if slot else b"", ident)]
    for at, byte in damage:
        data[3 + at % (len(data) - 3)] = byte
        assert read(envelope.decode, bytes(data)) == read(envelope._decode_any, bytes(data))
    for cut in range(3, min(len(data), 60)):
        assert read(envelope.decode, bytes(data[:cut])) == read(envelope._decode_any, bytes(data[:cut]))


@given(
    st.lists(st.tuples(st.sampled_from([0, 13, 15, 255]), st.binary(max_size=30), ids), max_size=6),
    st.booleans(),
    st.integers(0, 1 << 62),
)
def test_we_read_what_protobuf_encodes(items: list[tuple[int, bytes, int]], feedback: bool, number: int) -> None:
    response = tikvpb_pb2.BatchCommandsResponse(transport_layer_load=number & 255, tikv_send_time_ns=number)
    for slot, value, ident in items:
        entry = response.responses.add()
        if slot == 13:
            entry.RawGet.value = value
        elif slot == 15:
            entry.RawPut.error = value.hex()
        elif slot == 255:
            entry.Empty.test_id = 7
        response.request_ids.append(ident)
    if feedback:
        response.health_feedback.store_id = 5
    data = response.SerializeToString()
    decoded = envelope.decode(data)
    assert [(c.slot, c.id) for c in decoded] == [(slot, ident) for slot, _, ident in items]
    for command, entry in zip(decoded, response.responses, strict=True):
        if command.slot:
            assert command.body == getattr(entry, SLOTS[command.slot]).SerializeToString()
    found = envelope.decode_feedback(data)
    assert (found is not None) == feedback
    assert not feedback or found == response.health_feedback.SerializeToString()


@given(st.lists(st.tuples(st.sampled_from([0, 13, 300]), st.binary(max_size=9), ids), max_size=5))
def test_round_trip(items: list[tuple[int, bytes, int]]) -> None:
    want = [(slot, body if slot else b"", ident) for slot, body, ident in items]
    assert [tuple(c) for c in envelope.decode(envelope.encode(items))] == want


def test_ids_may_stand_unpacked() -> None:
    assert envelope.decode(b"\x0a\x02\x6a\x00\x10\x05") == [(13, b"", 5)]


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_garbage_raises_only_its_own_error(data: bytes) -> None:
    for function in (envelope.decode, envelope.decode_feedback):
        with contextlib.suppress(envelope.EnvelopeError):
            function(data)


@pytest.mark.parametrize("cut", range(1, 30))
def test_every_truncation_is_noticed(cut: int) -> None:
    whole = envelope.encode([(13, b"x" * 10, 300), (255, b"y" * 5, 1 << 40)])
    if cut < len(whole):
        with pytest.raises(envelope.EnvelopeError):
            envelope.decode(whole[:-cut])


@given(st.lists(st.tuples(bodies, ids), max_size=5), bodies)
def test_commands_that_end_alike(commands: list[tuple[bytes, int]], tail: bytes) -> None:
    alike = envelope.encode_alike(25, [(25, body, ident) for body, ident in commands], tail)
    assert alike == envelope.encode((25, body + tail, ident) for body, ident in commands)


@pytest.mark.parametrize("size", [1, 127, 128, 300, 16_383, 16_384])
def test_feedback_is_found_behind_commands_of_any_size(size: int) -> None:
    commands = envelope.encode((13, b'"' * size, ident) for ident in range(3))  # the byte is that of feedback's tag
    assert envelope.decode_feedback(commands) is None
    assert envelope.decode_feedback(commands + b"\x22\x02\x08\x07") == b"\x08\x07"
    for cut in (1, size):
        with contextlib.suppress(envelope.EnvelopeError):
            assert envelope.decode_feedback(commands[:-cut]) is None
