"""Contexts of calls: what they take, how they nest, what they encode, and that a token stays secret."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytikv
from pytikv.ambient import current_ambient, current_context, forget_ambient, on_behalf
from pytikv.call_context import CallContext, Secret
from pytikv.errors import InvalidArgument, WrongType
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = "0af7651916cd43dd8448eb211c80319c"
SPAN = "00f067aa0ba902b7"
TOKEN = "s3cr3t.of-alice"

names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["C", "Z"]), min_size=1)
trace_ids = st.integers(1, (1 << 128) - 1).map(lambda number: f"{number:032x}")
said = st.fixed_dictionaries(
    {},
    optional={
        "trace_id": trace_ids,
        "tenant_id": names,
        "request_source": names,
        "resource_group": names,
        "priority": st.sampled_from(["low", "normal", "high"]),
        "user_token": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
        "baggage": st.dictionaries(
            st.from_regex(r"[a-z0-9_.-]{1,20}", fullmatch=True), st.text(max_size=20), max_size=3
        ),
    },
)


def now() -> CallContext:
    context = current_context()
    assert context is not None
    return context


# --- values -----------------------------------------------------------------------------------------------------------


def test_nothing_by_default() -> None:
    assert current_ambient() is None
    assert current_context() is None


def test_what_is_said_is_there() -> None:
    with pytikv.context(trace_id=TRACE, span_id=SPAN, tenant_id="acme", service_class="core") as block:
        assert (now().trace_id, now().span_id, now().tenant_id) == (TRACE, SPAN, "acme")
        assert now().traceparent == f"00-{TRACE}-{SPAN}-01"
        assert current_ambient().service_class == "core"
        assert repr(block) == "context(trace_id=..., span_id=..., tenant_id=..., service_class=...)"
    assert current_ambient() is None


def test_ids_in_other_spellings() -> None:
    with pytikv.context(trace_id=str(uuid.UUID(TRACE)).upper()):
        assert now().trace_id == TRACE
        assert now().span_id == TRACE[16:]  # made from it
    with pytikv.context(trace_id="ab" + "0" * 30):
        assert now().span_id == "ab" + "0" * 14


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("trace_id", "xyz", "32 hex digits"),
        ("trace_id", "0" * 32, "not all 0"),
        ("span_id", "1" * 15, "16 hex digits"),
        ("tenant_id", "", "1 to 256 printable"),
        ("tenant_id", "a" * 257, "1 to 256 printable"),
        ("tenant_id", "a\r\nx: y", "printable"),
        ("request_source", "\ud800", "printable"),
        ("priority", "urgent", "'low', 'normal' or 'high'"),
        ("service_class", "", "names a row"),
        ("user_token", "two words", "visible ASCII"),
        ("user_token", "x" * 16385, "visible ASCII"),
        ("baggage", {"a b": "x"}, "name in baggage"),
        ("baggage", {"a": "\ud800"}, "surrogate"),
        ("baggage", {"a": "x" * 9000}, "8192 bytes"),
    ],
)
def test_refuses_values(argument, value, words) -> None:
    with pytest.raises(InvalidArgument, match=words):
        pytikv.context(**{argument: value})


@pytest.mark.parametrize("argument", ["trace_id", "tenant_id", "priority", "user_token", "service_class", "baggage"])
def test_refuses_types(argument) -> None:
    with pytest.raises(WrongType, match=argument):
        pytikv.context(**{argument: 7})


def test_a_span_needs_a_trace() -> None:
    with pytest.raises(InvalidArgument, match="needs a trace_id"), pytikv.context(span_id=SPAN):
        pass
    assert current_ambient() is None
    with pytikv.context(trace_id=TRACE), pytikv.context(span_id=SPAN):
        assert now().traceparent == f"00-{TRACE}-{SPAN}-01"


def test_one_object_is_for_one_block() -> None:
    one = pytikv.context(tenant_id="a")
    with one, pytest.raises(InvalidArgument, match="in use"), one:
        pass
    with one:
        assert now().tenant_id == "a"


# --- nesting ----------------------------------------------------------------------------------------------------------


def test_another_trace_leaves_the_outer_one_behind() -> None:
    with pytikv.context.from_headers({"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "a=1"}):
        assert (now().tracestate, now().trace_flags) == ("a=1", 0)
        with pytikv.context(tenant_id="acme"):
            assert now().traceparent == f"00-{TRACE}-{SPAN}-00"
        with pytikv.context(trace_id=OTHER):
            assert now().traceparent == f"00-{OTHER}-{OTHER[16:]}-01"
            assert now().tracestate == ""


@given(st.lists(said, max_size=5))
def test_inner_ones_inherit_and_override(blocks: list[dict[str, Any]]) -> None:
    expected: dict[str, Any] = {}
    baggage: dict[str, str] = {}
    entered = []
    for block in blocks:
        entered.append(pytikv.context(**block))
        entered[-1].__enter__()
        expected.update(block)
        baggage.update(block.get("baggage", {}))
        if expected:
            context = now()
            assert dict(context.baggage) == baggage
            for name in ("trace_id", "tenant_id", "request_source", "resource_group", "priority"):
                assert getattr(context, name) == expected.get(name)
            token = None if context.user_token is None else context.user_token.reveal()
            assert token == expected.get("user_token")
            check_encoding(context)
    for block in reversed(entered):
        block.__exit__(None, None, None)
    assert current_ambient() is None


def check_encoding(context: CallContext) -> None:
    fields = kvrpcpb.Context.FromString(context.fields)
    assert fields.request_source == (context.request_source or "")
    assert fields.resource_control_context.resource_group_name == (context.resource_group or "")
    assert fields.trace_id == bytes.fromhex(context.trace_id or "")
    assert fields.priority == {"low": 1, "high": 2}.get(context.priority or "", 0)
    for name, value in context.metadata:
        assert name == name.lower()
        assert value.isascii()
        assert value.isprintable()


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_token_is_nowhere_but_in_the_metadata(caplog: pytest.LogCaptureFixture) -> None:
    with pytikv.context(user_token=TOKEN, tenant_id="acme") as block:
        context, ambient = now(), current_ambient()
    assert dict(context.metadata)["authorization"] == f"Bearer {TOKEN}"
    shown = [context, ambient, block, context.user_token, dataclasses.asdict(context), vars(type(block))]
    for thing in shown:
        for text in (repr(thing), str(thing), f"{thing}"):
            assert TOKEN not in text
    assert TOKEN.encode() not in context.fields
    logging.getLogger("pytikv").warning("context %r %s", context, context)
    assert TOKEN not in caplog.text
    assert TOKEN.encode() not in pickle.dumps(context)
    again = pickle.loads(pickle.dumps(context))
    assert (again.tenant_id, again.user_token) == ("acme", None)
    assert copy.deepcopy(context) is copy.copy(context) is context
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(context.user_token)
    with pytest.raises(InvalidArgument) as refused:
        pytikv.context(user_token=f"{TOKEN} x")
    assert TOKEN not in str(refused.value)


def test_secrets_compare_by_what_they_hide() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert copy.deepcopy(Secret("a")) == Secret("a")


# --- work for others --------------------------------------------------------------------------------------------------


def drive(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def test_work_done_by_others_keeps_the_context_and_no_deadline() -> None:
    async def work() -> Any:
        return current_ambient()

    with pytikv.context(tenant_id="acme", service_class="core"), pytikv.deadline(1.0):
        kept = on_behalf(work)
        forget_ambient()
        assert drive(work()) is None
        ambient = drive(kept())
        assert current_ambient() is None
    assert (ambient.context.tenant_id, ambient.deadline, ambient.service_class) == ("acme", None, None)
    assert on_behalf(work) is work
