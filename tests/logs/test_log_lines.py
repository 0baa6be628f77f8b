"""Lines of JSON: valid and bounded whatever goes in, and without secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytikv
from pytikv.errors import CommitUndetermined, ConfigError, Overloaded, WriteConflict, WrongType, format_key
from pytikv.observe import telemetry
from pytikv.observe.log_lines import FACTS, MAX_LINE, line, scrub
from pytikv.observe.telemetry import Telemetry, current_record

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def record(message: object = "text", *args: Any, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("pytikv.test", logging.WARNING, __file__, 1, message, args, info)
    made.created = 1_700_000_000.25
    vars(made).update(extra)
    return made


def parse(text: str) -> dict[str, Any]:
    assert "\n" not in text
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert isinstance(found, dict)
    return found


def test_the_fields_of_a_line() -> None:
    around = {"trace_id": TRACE, "span_id": SPAN, "tenant": "acme"}
    facts = {"method": "txn_commit", "region": 7, "store": "s1:20160", "start_ts": 42, "duration_ms": 1.5}
    made = record("%s is %d", "this", 5, error=CommitUndetermined("lost"), **{FACTS: facts}, shop="one")
    found = parse(line(made, "checkout", around))
    assert found.pop("exception").endswith("CommitUndetermined: lost")
    assert found == {
        "timestamp": "2023-11-14T22:13:20.250000Z",
        "level": "WARNING",
        "logger": "pytikv.test",
        "message": "this is 5",
        "service": "checkout",
        **around,
        **facts,
        "error_code": "CommitUndetermined",
        "outcome": "undetermined",
        "shop": "one",
    }


def test_an_extra_whose_name_is_taken_gets_an_underscore() -> None:
    found = parse(line(record(level="mine", trace_id="mine"), "", {}))
    assert (found["level"], found["_level"], found["_trace_id"]) == ("WARNING", "mine", "mine")


def test_numbers_that_readers_would_round_are_text() -> None:
    found = parse(line(record(fits=1 << 53, long=(1 << 53) + 1, low=-(1 << 60), truth=True), "", {}))
    assert (found["fits"], found["long"], found["low"], found["truth"]) == (
        1 << 53,
        "9007199254740993",
        "-1152921504606846976",
        True,
    )


def test_keys_are_escaped_or_redacted() -> None:
    made = record("met %s", format_key(b"\xff'\"k"), wanted=b"\x00\xff")
    assert parse(line(made, "", {}))["wanted"] == "b'\\x00\\xff'"
    pytikv.redact_keys(True)
    try:
        found = parse(line(record("met %s", format_key(b"k1"), wanted=b"k1"), "", {}))
    finally:
        pytikv.redact_keys(False)
    assert (found["message"], found["wanted"]) == ("met ?", "?")


@pytest.mark.parametrize(
    "text",
    [
        "connecting to tikv://me:hunter2@pd1:2379/shop",
        "http://me:hunter2@proxy failed",
        "authorization: Bearer hunter2.abc-123",
        "user_token=hunter2",
        "{'user_token': 'hunter2', 'a': 1}",
        '{"password": "hunter2 with spaces"}',
        "?timeout=5&api_key=hunter2&x=1",
        "client_secret = hunter2",
        "X-Api-Key: hunter2",
        "tikv://me:p@hunter2@pd1:2379",
    ],
)
def test_secrets_never_reach_a_line(text: str) -> None:
    error = Overloaded(text)
    for made in (record(text), record("%s", text), record("no", error=error), record("no", note=text)):
        written = line(made, "", {})
        assert "hunter2" not in written
        assert "***" in written
    assert "hunter2" not in line(record("no", user_token="hunter2", nested={"password": "hunter2"}), "", {})


def test_what_is_no_secret_stays() -> None:
    text = "read tikv://pd1:2379/shop at me@example.org, key=5, tokens are fine"
    assert scrub(text) == text


@pytest.mark.parametrize(
    "text",
    ["a-", "token", "token-", "token ", "token= ", "token='", 'token="', "a+", "x://", "://a:", "bearer ", "pass", "-"],
)
def test_no_text_takes_long_to_look_through(text: str) -> None:
    began = time.thread_time()
    line(record(text * (1 << 20), error=Overloaded(text * (1 << 20)), note=text * (1 << 20)), "", {})
    assert time.thread_time() - began < 1.0


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("created", [float("nan"), 1e300, -1e300])
def test_a_clock_out_of_its_mind_is_no_error(created: float) -> None:
    made = record()
    made.created = created
    assert re.fullmatch(r"\d{4}-.*Z", parse(line(made, "", {}))["timestamp"])


@pytest.mark.parametrize(
    "made",
    [
        record("%d", "no number"),
        record("%s", Rude()),
        record(Rude()),
        record(
            "x", value=Rude(), number=float("nan"), big=1 << 40000, deep=[[[[[[1]]]]]], odd={b"k": {1, 2}, (1,): None}
        ),
        record("x", error=Overloaded(Rude())),  # type: ignore[arg-type]
        record("lone \ud800 surrogate", name2="\udfff"),
    ],
)
def test_what_cannot_be_shown_is_no_error(made: logging.LogRecord) -> None:
    parse(line(made, "", {}))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=4),
    max_leaves=20,
)


@given(st.text(), st.dictionaries(st.text(min_size=1), anything, max_size=40), anything)
def test_any_input_makes_valid_bounded_lines(message: str, extra: dict[str, Any], argument: Any) -> None:
    made = record("%s", message)
    known = set(vars(made))
    vars(made).update({name: value for name, value in extra.items() if name not in known})
    written = line(made, message[:20], {"tenant": argument})
    parse(written)
    assert written.isascii()
    assert len(written) <= MAX_LINE


@pytest.mark.parametrize("size", [1_000, 100_000, 5_000_000])
@pytest.mark.parametrize("sign", ["x", "\x00", "\ud800"])
def test_a_line_is_bounded(size: int, sign: str) -> None:
    text = sign * size
    made = record(text, error=Overloaded(text), **{f"extra{i}": text for i in range(50)})
    written = line(made, text, {"tenant": text})
    assert len(written) <= MAX_LINE
    assert parse(written)["level"] == "WARNING"


# --- the handler ------------------------------------------------------------------------------------------------------


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [parse(text) for text in stream.getvalue().splitlines()]


def test_the_handler_comes_and_goes() -> None:
    logger, stream = logging.getLogger("pytikv"), io.StringIO()
    before = (logger.level, logger.propagate, list(logger.handlers))
    with pytikv.logging.json(stream, "warning", "shop") as installed:
        logging.getLogger("pytikv.part").warning("one")
        logger.info("not this")
        logging.getLogger("other").error("nor this")
    installed.close()
    logger.warning("nor this, any more")
    assert [(one["message"], one["service"], one["logger"]) for one in lines(stream)] == [
        ("one", "shop", "pytikv.part"),
    ]
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_at_the_root_each_record_is_written_once() -> None:
    stream = io.StringIO()
    with pytikv.logging.json(stream, root=True):
        logging.getLogger("pytikv").info("ours")
        logging.getLogger("shop").info("theirs")
    assert [one["message"] for one in lines(stream)] == ["ours", "theirs"]


@pytest.mark.parametrize(
    "options", [{"level": "LOUD"}, {"level": True}, {"calls": "some"}, {"stream": "f.log"}, {"service": 5}]
)
def test_what_there_is_not_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, WrongType)):
        pytikv.logging.json(**{"stream": io.StringIO(), **options})
    assert not [h for h in logging.getLogger("pytikv").handlers if isinstance(h, logging.StreamHandler)]


def test_lines_bear_the_ids_of_the_surrounding_context() -> None:
    stream = io.StringIO()
    with (
        pytikv.logging.json(stream),
        pytikv.context(trace_id=TRACE, span_id=SPAN, tenant_id="acme", user_token="hunter2"),
    ):
        logging.getLogger("pytikv").info("hello")
    (found,) = lines(stream)
    assert (found["trace_id"], found["span_id"], found["tenant"]) == (TRACE, SPAN, "acme")
    assert "hunter2" not in stream.getvalue()


def test_lines_bear_the_ids_of_the_span_of_their_call() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    from pytikv.observe import tracing

    found = []

    async def body() -> None:
        logging.getLogger("pytikv").info("inside")
        record = current_record()
        assert record is not None
        found.append((telemetry.trace_id_of(record), telemetry.span_id_of(record)))

    stream, provider = io.StringIO(), TracerProvider()
    with pytikv.logging.json(stream), tracing.enable(provider):
        drive(Telemetry(lambda: 1.0, lambda: 2.0).run("raw_get", body()))
        with provider.get_tracer("app").start_as_current_span("request") as span:
            logging.getLogger("pytikv").info("outside of calls")
    provider.shutdown()
    inside, outside = lines(stream)
    assert (inside["trace_id"], inside["span_id"]) == found[0]
    assert outside["trace_id"] == f"{span.get_span_context().trace_id:032x}"


def drive(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


async def _fails(error: BaseException) -> None:
    record = current_record()
    assert record is not None
    record.note(start_ts=42)
    raise error


def test_failed_calls_are_logged_at_a_bounded_rate() -> None:
    clock, stream = Clock(), io.StringIO()
    of_client = Telemetry(clock, clock)
    with pytikv.logging.json(stream, calls="errors"):
        for _ in range(14):
            with pytest.raises(WriteConflict):
                drive(of_client.run("txn_commit", _fails(WriteConflict("met another"))))
        clock.now += 1.5
        with pytest.raises(WriteConflict):
            drive(of_client.run("txn_commit", _fails(WriteConflict("met another"))))
    found = lines(stream)
    assert len(found) == 11
    assert found[0]["message"] == "txn_commit failed: met another"
    assert {name: found[0][name] for name in ("method", "error_code", "outcome", "start_ts", "duration_ms")} == {
        "method": "txn_commit",
        "error_code": "WriteConflict",
        "outcome": "not_applied",
        "start_ts": "42",
        "duration_ms": 0.0,
    }
    assert found[-1]["suppressed"] == 4


def test_every_call_is_logged_if_asked_for() -> None:
    stream = io.StringIO()
    with pytikv.logging.json(stream, calls="all"), pytikv.RawClient.connect("embedded://:memory:") as client:
        client.put(b"k", b"v")
        client.get(b"k")
    assert [(one["message"], one["level"]) for one in lines(stream)] == [("raw_put", "INFO"), ("raw_get", "INFO")]
    assert telemetry.sinks() == ()
