"""What inbound headers say, and that nothing they hold raises."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pytikv
from pytikv.ambient import current_ambient, current_context, current_deadline
from pytikv.errors import WrongType
from pytikv.inbound import read_headers
from pytikv.rt.clock import ambient_clock

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

hexes = st.sampled_from("0123456789abcdef")


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": PARENT},
        {"TraceParent": PARENT},
        {b"traceparent": PARENT.encode()},
        [("traceparent", PARENT)],
        [(b"TRACEPARENT", PARENT.encode())],
        iter([("traceparent", f"  {PARENT}\t")]),
        {"HTTP_TRACEPARENT": PARENT, "wsgi.version": (1, 0)},
        {"traceparent": [PARENT]},
        [("a", "b"), 7, ("traceparent",), None, ("traceparent", PARENT), (3, 4), ("x", None)],
    ],
)
def test_headers_in_every_form(headers) -> None:
    with pytikv.context.from_headers(headers):
        assert current_context().traceparent == PARENT


@pytest.mark.parametrize("headers", [None, 7, "traceparent", b"x"])
def test_what_is_no_headers(headers) -> None:
    with pytest.raises(WrongType, match="headers are a mapping or pairs"):
        pytikv.context.from_headers(headers)


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"01-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE}-{SPAN}-01\n",
        "0" * 100_000,
    ],
)
def test_a_traceparent_that_is_none_is_ignored(value) -> None:
    read = read_headers({"traceparent": value, "tracestate": "a=1"})
    if value.strip() == PARENT:
        assert read.changes["trace_id"] == TRACE
    else:
        assert read.changes == {}


def test_a_later_version_may_say_more() -> None:
    read = read_headers({"traceparent": f"42-{TRACE}-{SPAN}-ff-what comes then"})
    assert read.changes == {"trace_id": TRACE, "span_id": SPAN, "trace_flags": 3, "tracestate": ""}


def test_two_traceparents_are_none() -> None:
    assert read_headers([("traceparent", PARENT), ("TraceParent", PARENT)]).changes == {}


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (["a=1"], "a=1"),
        (["a=1, b=2", "c@d=3"], "a=1,b=2,c@d=3"),
        ([" a=1 ,, b=x y "], "a=1,b=x y"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a=1=2"], ""),
        ([",".join(f"k{i}=1" for i in range(32))], ",".join(f"k{i}=1" for i in range(32))),
        ([",".join(f"k{i}=1" for i in range(33))], ""),
        (["a=" + "x" * 257], ""),
    ],
)
def test_tracestate(values, kept) -> None:
    headers = [("traceparent", PARENT), *(("tracestate", value) for value in values)]
    assert read_headers(headers).changes["tracestate"] == kept


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("user=alice", {"user": "alice"}),
        ("a=1,b=x%20y;prop=2 , c = z ", {"a": "1", "b": "x y", "c": "z"}),
        ("a=1,b,c d=2,=3,e=\u00e9,f=%ff", {"a": "1", "f": "\ufffd"}),
        ("a=1,a=2", {"a": "1"}),
        (",".join(f"k{i}=v" for i in range(100)), {f"k{i}": "v" for i in range(64)}),
    ],
)
def test_baggage(value, kept) -> None:
    assert dict(read_headers({"baggage": value}).changes.get("baggage", ())) == kept


def test_baggage_is_bounded() -> None:
    value = ",".join(f"k{i}={'v' * 300}" for i in range(50))
    with pytikv.context.from_headers({"baggage": value}):
        kept = current_context().baggage
        assert 20 < len(kept) < 30
        assert len(dict(current_context().metadata)["baggage"]) <= 8192


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2H", 7200.0),
        ("3M", 180.0),
        ("4S", 4.0),
        ("500m", 0.5),
        ("6000u", 0.006),
        ("7000000n", 0.007),
        ("0m", 0.0),
        ("99999999H", 99999999 * 3600.0),
        ("123456789m", None),
        ("5", None),
        ("m", None),
        ("-1S", None),
        ("1.5S", None),
        ("\u0665S", None),
        ("5s", None),
    ],
)
def test_grpc_timeout(value, seconds) -> None:
    assert read_headers({"grpc-timeout": value}).timeout_s == pytest.approx(seconds)


def test_the_timeout_sets_a_deadline_that_only_shrinks() -> None:
    def inside() -> None:
        ambient_clock.set(lambda: 100.0)
        with pytikv.context.from_headers({"grpc-timeout": "500m"}):
            assert current_deadline() == 100.5
            with pytikv.context.from_headers({"grpc-timeout": "5S"}):
                assert current_deadline() == 100.5
            with pytikv.context(tenant_id="a"):
                assert current_deadline() == 100.5
        with pytikv.deadline(0.1), pytikv.context.from_headers({"grpc-timeout": "5S"}):
            assert current_deadline() == 100.1

    contextvars.copy_context().run(inside)


def test_nothing_said_changes_nothing() -> None:
    with pytikv.context.from_headers({}):
        assert current_context() is None
    with pytikv.context(tenant_id="a"), pytikv.context.from_headers({"traceparent": "nonsense"}):
        assert current_context().tenant_id == "a"


text = st.one_of(st.text(max_size=80), st.binary(max_size=80))
anything = st.one_of(st.none(), st.integers(), text, st.lists(text, max_size=3))
wanted = st.sampled_from(["traceparent", "tracestate", "baggage", "grpc-timeout", b"Baggage", "HTTP_BAGGAGE"])
nearly = st.one_of(
    text,
    st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?", fullmatch=True),
    st.from_regex(r"([a-z=;,% \t\"\\0-9@]{1,12}=[^,]{0,9},?){1,6}", fullmatch=True),
    st.from_regex(r"[0-9]{1,9}[HMSmunx]?", fullmatch=True),
)
pairs = st.lists(st.one_of(st.tuples(wanted, nearly), st.tuples(anything, anything), anything), max_size=12)


@given(pairs)
@example([("baggage", "a=\ud800")])
@example([("tracestate", "\ud800=1"), ("traceparent", PARENT)])
def test_nothing_in_headers_raises(headers: list[Any]) -> None:
    with pytikv.context.from_headers(headers):
        ambient = current_ambient()
        for name, value in ambient.context.metadata if ambient is not None and ambient.context is not None else ():
            assert name in ("traceparent", "tracestate", "baggage")
            assert value.isascii()
            assert value.isprintable()


@given(
    st.text(hexes, min_size=32, max_size=32).filter(lambda text: text.strip("0")),
    st.text(hexes, min_size=16, max_size=16).filter(lambda text: text.strip("0")),
    st.integers(0, 3),
    st.dictionaries(st.from_regex(r"[a-zA-Z0-9_.~|-]{1,12}", fullmatch=True), st.text(max_size=12), max_size=8),
)
def test_what_goes_out_comes_in_again(trace_id: str, span_id: str, flags: int, baggage: dict[str, str]) -> None:
    inbound = {"traceparent": f"00-{trace_id}-{span_id}-{flags:02x}", "tracestate": "vendor=1"}
    with pytikv.context.from_headers(inbound), pytikv.context(baggage=baggage):
        metadata = dict(current_context().metadata)
    assert {name: metadata[name] for name in inbound} == inbound
    with pytikv.context.from_headers(metadata):
        assert dict(current_context().metadata) == metadata
        assert dict(current_context().baggage) == baggage
