"""Goodput under overload, with guards and without, and the chart of it."""

from __future__ import annotations

import json
import pathlib
import xml.etree.ElementTree

import pytest

from pytikv.testing import overload_report, simulate
from pytikv.testing.overload import GUARDS, Curve, OverloadOptions, Point, run_curve, run_point

LOADS = (0.5, 1.0, 2.0)


def test_with_guards_goodput_stays() -> None:
    curve = run_curve("with guards", 1, GUARDS, loads=LOADS)
    assert curve.at(2.0).goodput >= 0.9 * curve.peak  # 0.8 is what was asked for
    assert set(curve.at(2.0).errors) <= {"Overloaded", "CircuitOpen"}  # refused, not let down
    assert curve.at(0.5).errors == {}
    assert curve.at(0.5).goodput == curve.at(0.5).offered
    assert curve.peak >= 0.95 * OverloadOptions().per_second


def test_without_guards_it_falls_to_nothing() -> None:
    """The stores work as hard as ever, for calls that have been given up."""
    curve = run_curve("without", 1, loads=(1.0, 1.25, 2.0), options=OverloadOptions(seconds=5))
    assert curve.at(1.0).goodput >= 0.95 * OverloadOptions().per_second
    for load in (1.25, 2.0):
        assert curve.at(load).goodput < 0.1 * curve.peak
        assert set(curve.at(load).errors) == {"DeadlineExceeded"}
        assert curve.at(load).sent >= 0.99 * curve.at(load).offered


@pytest.mark.parametrize("guard", [{"adaptive_limit": True}, {"bulkhead": 4}])
def test_either_limit_alone_does(guard: dict[str, object]) -> None:
    point = run_point(2, 2.0, guard)
    assert point.goodput >= 0.9 * OverloadOptions().per_second


@pytest.mark.parametrize(("clients", "share"), [(1, 0.9), (16, 0.7)])
def test_however_many_clients_there_are(clients: int, share: float) -> None:
    """Each finds its own limit. Sixteen begin with 512 requests at each store that carries out 200 a second."""
    options = OverloadOptions(clients=clients)
    assert run_point(1, 2.0, GUARDS, options).goodput >= share * options.per_second


def test_many_clients_that_begin_in_overload_come_out_of_it() -> None:
    """Sixty-four clients send a store no more than three requests at a time: it takes them some seconds to learn."""
    options = OverloadOptions(clients=64, warm_seconds=13, seconds=16)
    assert run_point(1, 2.0, GUARDS, options).goodput >= 0.8 * options.per_second


def test_points_are_reproducible() -> None:
    options = OverloadOptions(seconds=2, warm_seconds=1)
    assert run_point(5, 1.5, GUARDS, options) == run_point(5, 1.5, GUARDS, options)
    assert run_point(5, 1.5, GUARDS, options) != run_point(6, 1.5, GUARDS, options)


# --- the chart ---


def curves() -> tuple[Curve, Curve]:
    """Two curves that took no time to make."""

    def point(load: float, goodput: float) -> Point:
        return Point(load, 600 * load, goodput, 600.0, 0.1, {})

    guarded = Curve("with guards", (point(1.0, 600), point(2.0, 540), point(3.0, 540)))
    return guarded, Curve("without", (point(1.0, 590), point(2.0, 10), point(3.0, 0)))


def test_chart_on_the_terminal() -> None:
    lines = overload_report.text_of(curves(), OverloadOptions())
    assert "within 500 ms" in lines[0]
    bars = [line.count("█") for line in lines if "█" in line or "of  1800" in line]
    assert bars[0] == 40
    assert bars[-2] == 36
    assert bars[-1] == 0
    assert lines[-1] == "At twice the capacity: 90% of the peak with guards, 2% without."


def test_chart_in_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "goodput.svg"
    overload_report.write_svg(curves(), OverloadOptions(), path)
    text = path.read_text()
    xml.etree.ElementTree.fromstring(text)
    for words in ("answers in time, 1/s", "deadline 500 ms", "with guards", "without", "capacity"):
        assert words in text
    assert "<script" not in text


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload_report, "LOADS", (1.0, 2.0))
    assert simulate.main(["--kind", "overload", "--seed", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["seed"], record["capacity"]) == (3, 600)
    guarded, plain = record["curves"]
    assert [point["load"] for point in guarded["points"]] == [1.0, 2.0]
    assert guarded["points"][1]["goodput"] > 500 > 60 > plain["points"][1]["goodput"]


def test_command_fails_where_guards_do_not_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload_report, "compare", lambda *_, **__: curves()[::-1])
    assert simulate.main(["--kind", "overload"]) == 1
    assert "2% of the peak with guards" in capsys.readouterr().out
