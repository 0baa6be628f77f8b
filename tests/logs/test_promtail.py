"""The Promtail pipeline that the package ships, run by a small interpreter of its stages on lines as they are written.

The interpreter does what Grafana documents of the stages json, timestamp, labels and structured_metadata, for the
expressions used here (plain names); any other stage or expression is an error.
"""

from __future__ import annotations

import io
import json
from datetime import datetime
from importlib import resources
from typing import Any, NamedTuple

import pytest

import pytikv
from pytikv.observe.log_lines import MAX_LINE

yaml = pytest.importorskip("yaml")

DATA = resources.files("pytikv.observe") / "data"
FIELDS = {
    *("timestamp", "level", "logger", "service", "trace_id", "span_id", "tenant", "method"),
    *("region", "store", "start_ts", "duration_ms", "error_code", "outcome"),
}


class Entry(NamedTuple):
    at: datetime
    labels: dict[str, str]
    metadata: dict[str, str]
    text: str


def pipeline() -> list[dict[str, Any]]:
    (job,) = yaml.safe_load((DATA / "promtail.yml").read_text())["scrape_configs"]
    stages = job["pipeline_stages"]
    assert isinstance(stages, list)
    return stages


def run(stages: list[dict[str, Any]], text: str) -> Entry:
    extracted: dict[str, Any] = {}
    found = Entry(datetime.min, {}, {}, text)
    for stage in stages:
        ((name, options),) = stage.items()
        if name == "json":
            parsed = json.loads(text, parse_int=float)  # as Promtail reads numbers
            for target, expression in options["expressions"].items():
                assert expression.isidentifier()
                if expression in parsed:
                    extracted[target] = parsed[expression]
        elif name == "timestamp":
            assert options["format"] == "RFC3339Nano"
            found = found._replace(at=datetime.fromisoformat(extracted[options["source"]]))
        elif name in ("labels", "structured_metadata"):
            taken = {
                target: str(extracted[source or target])
                for target, source in options.items()
                if (source or target) in extracted
            }
            (found.labels if name == "labels" else found.metadata).update(taken)
        else:
            raise AssertionError(f"unknown stage {name}")
    return found


def test_real_lines_become_entries() -> None:
    stream = io.StringIO()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    with (
        pytikv.logging.json(stream, service="shop", calls="all"),
        pytikv.TransactionClient.connect("embedded://:memory:", slow_log=0.0) as client,
        pytikv.context(trace_id=trace_id, tenant_id="acme"),
    ):
        with client.begin() as txn:
            txn.put(b"k", b"v")
        loser, winner = client.begin(), client.begin()
        for txn in (winner, loser):
            txn.put(b"k", b"w")
        winner.commit()
        with pytest.raises(pytikv.WriteConflict):
            loser.commit()
    entries = [run(pipeline(), text) for text in stream.getvalue().splitlines()]
    assert {entry.labels["logger"] for entry in entries} == {"pytikv", "pytikv.slow"}
    for entry in entries:
        assert entry.labels["service"] == "shop"
        assert entry.metadata["tenant"] == "acme"
        assert entry.metadata["trace_id"] == trace_id
        assert entry.at.tzinfo is not None
        assert abs(entry.at.timestamp() - datetime.now(entry.at.tzinfo).timestamp()) < 600
    (lost,) = [entry for entry in entries if "error_code" in entry.metadata and entry.labels["logger"] == "pytikv"]
    assert lost.labels["level"] == "WARNING"
    assert (lost.metadata["error_code"], lost.metadata["outcome"]) == ("WriteConflict", "not_applied")
    assert lost.metadata["method"] == "txn_commit"
    assert int(lost.metadata["start_ts"]) == loser.start_ts
    assert float(lost.metadata["duration_ms"]) >= 0


def test_all_fields_of_a_line_are_read_and_labels_are_few() -> None:
    stages = {name: options for stage in pipeline() for name, options in stage.items()}
    assert set(stages["json"]["expressions"]) == FIELDS
    assert set(stages["labels"]) | set(stages["structured_metadata"]) == FIELDS - {"timestamp"}
    assert set(stages["labels"]) == {"level", "logger", "service"}


def test_loki_takes_what_promtail_sends() -> None:
    promtail, loki = (yaml.safe_load((DATA / name).read_text()) for name in ("promtail.yml", "loki.yml"))
    server = loki["server"]
    address = f"http://{server['http_listen_address']}:{server['http_listen_port']}"
    assert promtail["clients"] == [{"url": f"{address}/loki/api/v1/push"}]
    assert loki["limits_config"]["allow_structured_metadata"] is True
    assert int(loki["limits_config"]["max_line_size"].removesuffix("KB")) * 1024 > MAX_LINE
    (schema,) = loki["schema_config"]["configs"]
    assert (schema["store"], schema["schema"]) == ("tsdb", "v13")  # what structured metadata needs
