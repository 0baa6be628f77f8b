"""Options from five places, checked once."""

import ast
import dataclasses
import itertools
import pathlib

import pytest

from pytikv.config import TLS, ClientConfig, load_config
from pytikv.errors import ConfigError


def load(options=None, query=None, environment=None) -> ClientConfig:
    return load_config(options or {}, query or {}, environment or {})


def test_defaults() -> None:
    config = load()
    assert (config.timeout, config.rpc_timeout, config.grpc_concurrency) == (10.0, 5.0, 8)
    assert (config.background_worker_size, config.idle_timeout, config.replica_read) == (4, 60.0, "leader")
    assert config.retry_lost_writes is True
    assert config.use_query_region is False
    assert config.tls is None
    assert config.api_version is None


def test_every_option_is_documented_and_checked() -> None:
    tree = ast.parse(pathlib.Path(load_config.__code__.co_filename).read_text())
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "ClientConfig")
    documented = {
        node.target.id
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    fields = dataclasses.fields(ClientConfig)
    assert documented == {field.name for field in fields}
    assert all(callable(field.metadata["check"]) for field in fields)


def test_order_of_places(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pytikv.toml"
    file.write_text("timeout = 1.0\nrpc_timeout = 1.0\nconnect_timeout = 1.0\npd_timeout = 1.0\n")
    config = load(
        {"timeout": 4.0, "config": str(file)},
        {"timeout": "3", "rpc_timeout": "3"},
        {"PYTIKV_TIMEOUT": "2", "PYTIKV_RPC_TIMEOUT": "2", "PYTIKV_CONNECT_TIMEOUT": "2"},
    )
    assert (config.timeout, config.rpc_timeout, config.connect_timeout, config.pd_timeout) == (4.0, 3.0, 2.0, 1.0)


def test_file_named_by_the_environment(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('replica_read = "mixed"\n[match_labels]\nzone = "z1"\n[tls]\nca = "ca.pem"\n')
    config = load(environment={"PYTIKV_CONFIG": str(file)})
    assert config.replica_read == "mixed"
    assert config.match_labels == (("zone", "z1"),)
    assert config.tls == TLS(ca="ca.pem")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"api_version": "2"}, {"api_version": 2}),
        ({"api_version": "1ttl"}, {"api_version": 1}),
        ({"api_version": "V2"}, {"api_version": 2}),
        ({"sync": "off"}, {"sync": False}),
        ({"retry_lost_writes": "false"}, {"retry_lost_writes": False}),
        ({"match_labels": "zone=z1,host=h2"}, {"match_labels": (("zone", "z1"), ("host", "h2"))}),
        ({"resource_group_tag": "abc"}, {"resource_group_tag": b"abc"}),
        ({"ca": "a.pem", "cert": "c.pem", "key": "k.pem"}, {"tls": TLS("a.pem", "c.pem", "k.pem")}),
        ({"tls": "true"}, {"tls": TLS()}),
        ({"tls": "no"}, {"tls": None}),
    ],
)
def test_text_is_read_by_kind(query: dict[str, str], expected: dict[str, object]) -> None:
    config = load(query=query)
    for name, value in expected.items():
        assert getattr(config, name) == value


def test_tls_paths_complete_each_other() -> None:
    assert load({"cert": "c", "key": "k"}, {"ca": "a"}).tls == TLS("a", "c", "k")
    assert load({"tls": TLS(ca="x")}, {"ca": "a", "cert": "c"}).tls == TLS(ca="x")
    with pytest.raises(ConfigError, match="tls"):
        load({}, {"tls": "off", "ca": "a"})


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"timeot": 1}, "'timeot'.*'timeout'"),
        ({"timeout": "soon"}, "'timeout' must be a number of seconds"),
        ({"timeout": 0}, "between 0.001"),
        ({"timeout": float("nan")}, "number of seconds"),
        ({"timeout": True}, "number of seconds"),
        ({"api_version": 3}, "integer between 1 and 2"),
        ({"grpc_concurrency": 1.5}, "integer"),
        ({"replica_read": "nearest"}, "'leader', 'follower'"),
        ({"match_labels": "zone"}, "labels such as"),
        ({"retry_lost_writes": "maybe"}, "true or false"),
        ({"tls": "/ca.pem"}, "true or false"),
        ({"tls": {"cacert": "x"}}, "cacert"),
        ({"tls": 1}, "pytikv.TLS"),
        ({"cf": 7}, "string"),
        ({"config": "/does/not/exist.toml"}, "cannot read"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        load(options)


def test_unknown_names_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"query.*did you mean 'timeout'"):
        load(query={"timout": "1"})
    with pytest.raises(ConfigError, match="PYTIKV_TIMEOUT"):
        load(environment={"PYTIKV_TIMEOUTS": "1"})
    assert load(environment={"PYTIKV_URL": "x", "PYTIKV_SOMETHING_ELSE": "1", "TIMEOUT": "9"}) == load()


def test_broken_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("timeout = \n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load({"config": file})
    file.write_text("tmeout = 1\n")
    with pytest.raises(ConfigError, match="timeout"):
        load({"config": file})
    with pytest.raises(ConfigError, match="path of a TOML"):
        load({"config": 7})


def test_replace_checks_too() -> None:
    config = load()
    assert config.replace(timeout=2).timeout == 2.0
    with pytest.raises(ConfigError, match="priority"):
        config.replace(priorty="high")
    with pytest.raises(ConfigError):
        config.replace(timeout=-1)


def test_long_values_are_not_echoed() -> None:
    secret = "s" * 40
    with pytest.raises(ConfigError) as caught:
        load({"timeout": secret})
    assert secret not in str(caught.value)
