"""Service classes: the table, the option in all its forms, and what embedded clients make of it."""

from __future__ import annotations

import contextvars
from pathlib import Path
from typing import Any

import pytest

import pytikv
from pytikv.ambient import end_of_call
from pytikv.config import load_config
from pytikv.rt.clock import ambient_clock
from pytikv.service_classes import Sla

CLASSES = {"core": 0.05, "background": 0.2}


def test_a_table_is_a_mapping() -> None:
    sla = Sla(CLASSES)
    assert sla == CLASSES == dict(sla)
    assert (sla["core"], sla.get("cure"), "cure" in sla, len(sla)) == (0.05, None, False, 2)
    sla["core"] = 1
    del sla["background"]
    assert repr(sla) == "Sla({'core': 1})"
    assert sla.seconds("core") == 1
    with pytest.raises(KeyError):
        sla["background"]
    with pytest.raises(pytikv.InvalidArgument, match=r"'background' is unknown: the client's sla has 'core'"):
        sla.seconds("background")
    with pytest.raises(pytikv.InvalidArgument, match="has no classes"):
        Sla().seconds("core")
    assert hash(sla) == hash(Sla())


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_a_table_refuses_what_is_no_time(seconds: Any) -> None:
    sla = Sla(CLASSES)
    with pytest.raises(pytikv.InvalidArgument, match="'core'"):
        sla["core"] = seconds
    assert sla == CLASSES


@pytest.mark.parametrize("name", ["", 7, None])
def test_a_class_has_a_name(name: Any) -> None:
    with pytest.raises(pytikv.WrongType, match="name of a service class"):
        Sla()[name] = 1.0


def test_the_option_in_all_its_forms(tmp_path: Path) -> None:
    file = tmp_path / "pytikv.toml"
    file.write_text("service_class = 'core'\n[sla]\ncore = 0.05\nbackground = 0.2\n")
    for config in (
        load_config({"sla": CLASSES, "service_class": "core"}, environment={}),
        load_config({}, {"sla": "core=0.05,background=0.2", "service-class": "core"}, {}),
        load_config({}, {}, {"PYTIKV_SLA": "core=0.05, background=0.2", "PYTIKV_SERVICE_CLASS": "core"}),
        load_config({"config": file}, environment={}),
    ):
        assert config.sla == CLASSES
        assert config.service_class == "core"
        assert config.replace(timeout=1.0).sla is config.sla
    assert load_config({}, environment={}).sla == {}


@pytest.mark.parametrize("value", ["core", "core=", "core=x", "=1", {"core": 0}, {"core": "x"}, {7: 1.0}, 7])
def test_the_option_refuses(value: Any) -> None:
    with pytest.raises(pytikv.ConfigError, match="sla"):
        pytikv.ClientConfig(sla=value)


def test_which_time_holds() -> None:
    """The class around the call, else the client's, else `timeout`; and the deadline ends all of them."""
    config = pytikv.ClientConfig(sla=CLASSES, service_class="core", timeout=2.0)

    def inside() -> None:
        ambient_clock.set(lambda: 100.0)
        assert end_of_call(100.0, config) == 100.05
        assert end_of_call(100.0, config, 1.0) == 101.05
        assert end_of_call(100.0, pytikv.ClientConfig(timeout=2.0)) == 102.0
        with pytikv.context(service_class="background"):
            assert end_of_call(100.0, config) == 100.2
            with pytikv.deadline(0.1):
                assert end_of_call(100.0, config) == 100.1
            with pytikv.context(service_class="core"):
                assert end_of_call(100.0, config) == 100.05
        with pytikv.context(service_class="cure"), pytest.raises(pytikv.InvalidArgument, match="'cure'"):
            end_of_call(100.0, config)

    contextvars.copy_context().run(inside)


def test_embedded_clients_keep_them_too() -> None:
    with pytikv.RawClient.connect("embedded://:memory:", sla=CLASSES) as kv:
        core = kv.with_options(service_class="core")
        core.put(b"k", b"v")
        with pytikv.context(service_class="core", trace_id="a" * 32, user_token="t"):
            assert kv.get(b"k") == b"v"
        with pytikv.context(service_class="cure"), pytest.raises(pytikv.InvalidArgument, match="'cure'"):
            kv.get(b"k")
        with pytikv.deadline(0), pytest.raises(pytikv.DeadlineExceeded):
            core.get(b"k")
        kv.sla["core"] = 0.5
        assert core.sla == {"core": 0.5, "background": 0.2}
        with pytest.raises(pytikv.ConfigError, match="service_class"):
            kv.with_options(service_class="cure")
    with pytest.raises(pytikv.ConfigError, match="service_class"):
        pytikv.RawClient.connect("embedded://:memory:", service_class="core")


def test_transactional_clients_keep_them_too() -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:", sla=CLASSES) as db:
        with db.with_options(service_class="core").begin() as txn:
            txn.put(b"k", b"v")
        with pytikv.context(service_class="cure"), pytest.raises(pytikv.InvalidArgument, match="'cure'"):
            db.snapshot(cache=False).get(b"k")
        db.sla["core"] = 0.5
        assert db.config.sla["core"] == 0.5
