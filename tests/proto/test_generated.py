"""The generated messages: fields they do not know survive, and the service's facts hold."""

from pytikv.proto import kvrpcpb_pb2, tikvpb_pb2


def test_unknown_fields_survive() -> None:
    newer = kvrpcpb_pb2.RawGetResponse(value=b"v").SerializeToString() + b"\xfa\x3f\x03abc"  # field 1023, bytes
    message = kvrpcpb_pb2.RawGetResponse.FromString(newer)
    assert message.value == b"v"
    assert message.SerializeToString() == newer


def test_a_slot_we_do_not_know_survives_in_a_batch() -> None:
    unknown = b"\x0a\x05\xb2\x01\x02\x08\x01"  # requests[0].Coprocessor (slot 22), which this library does not use
    batch = tikvpb_pb2.BatchCommandsRequest.FromString(unknown)
    assert batch.requests[0].WhichOneof("cmd") is None
    assert batch.SerializeToString() == unknown


def test_context_merges_in_front_of_a_body() -> None:
    context = kvrpcpb_pb2.RawGetRequest(context=kvrpcpb_pb2.Context(region_id=7)).SerializeToString()
    body = kvrpcpb_pb2.RawGetRequest(key=b"k").SerializeToString()
    whole = kvrpcpb_pb2.RawGetRequest.FromString(context + body)
    assert (whole.context.region_id, whole.key) == (7, b"k")


def test_packages_carry_our_prefix() -> None:
    assert kvrpcpb_pb2.Context.DESCRIPTOR.full_name == "pytikv.kvrpcpb.Context"
    assert kvrpcpb_pb2.DESCRIPTOR.name == "pytikv/proto/kvrpcpb.proto"
