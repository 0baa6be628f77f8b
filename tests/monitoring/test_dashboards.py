"""The dashboards: up to date with their declaration, taken by Grafana's own types, and sound in themselves."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytikv.monitoring.board import Board, metric_names, substitute
from pytikv.monitoring.client_board import CLIENT_BOARD
from pytikv.monitoring.kit import BOARDS
from pytikv.monitoring.server_board import SERVER_BOARD

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "src" / "pytikv" / "monitoring" / "data"
BOTH = pytest.mark.parametrize("board", [CLIENT_BOARD, SERVER_BOARD], ids=lambda board: board.uid)
needs_sdk = pytest.mark.skipif(
    importlib.util.find_spec("grafana_foundation_sdk") is None, reason="grafana-foundation-sdk is not installed"
)


def read(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{board.uid}.json").read_text())
    return found


@needs_sdk
def test_the_files_are_up_to_date() -> None:
    command = [sys.executable, "tools/gen_dashboards.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.stem for path in DATA.glob("pytikv-*.json")) == sorted(BOARDS)


@needs_sdk
@BOTH
def test_grafanas_types_take_it_unchanged(board: Board) -> None:
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    found = read(board)
    assert json.loads(json.dumps(Dashboard.from_json(found), cls=JSONEncoder)) == found


@BOTH
def test_panels_are_all_there(board: Board) -> None:
    found = [panel for panel in read(board)["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in found] == [panel.title for panel in board.panels]
    assert [[target["expr"] for target in panel["targets"]] for panel in found] == [
        [query.expr for query in panel.queries] for panel in board.panels
    ]
    ids = [panel["id"] for panel in read(board)["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in found:
        assert panel["description"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    names = [variable["name"] for variable in read(board)["templating"]["list"]]
    assert names == ["datasource", "job", "instance", "interval"]


@BOTH
def test_queries_name_job_instance_and_window(board: Board) -> None:
    for panel in board.panels:
        for query in panel.queries:
            assert metric_names(query.expr), query.expr
            assert "$job" in query.expr and "$instance" in query.expr  # noqa: PT018  # one thought
            assert "rate(" not in query.expr or "[$interval]" in query.expr
            assert "$" not in substitute(query.expr)


def test_variables_are_filled_in() -> None:
    expr = 'rate(x{job=~"$job",instance=~"$instance"}[$interval])'
    assert substitute(expr, job="a", instance="b", interval="5m") == 'rate(x{job=~"a",instance=~"b"}[5m])'


@BOTH
def test_labels_are_not_taken_for_metrics(board: Board) -> None:
    names = {name for panel in board.panels for query in panel.queries for name in metric_names(query.expr)}
    assert all(name.startswith(("tikv_", "pytikv_", "pd_", "process_", "grpc_server_")) for name in names), names
    assert "grpc_method" not in names
