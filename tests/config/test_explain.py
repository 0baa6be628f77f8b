"""`pytikv config show`, and that every option can be explained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pytikv.cli.app import app
from pytikv.config import ClientConfig
from pytikv.settings.explain import explained, meanings
from pytikv.settings.kinds import Kind


def show(*words: str, **environment: str) -> Any:
    done = CliRunner().invoke(app, ["config", *words], env=environment)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_each_option_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "pytikv.toml"
    file.write_text('grpc-concurrency = 16\n\n[tls]\nca = "ca.pem"\ncert = "c.pem"\n')
    url = f"tikv://pd1/shop?timeout=2.5&config={file}&key=k.pem&api_version=2"
    record = json.loads(show("show", "--json", "--url", url, PYTIKV_RPC_TIMEOUT="1"))
    assert record["target"] == "tikv://pd1:2379/shop"
    options = record["options"]
    assert list(options) == [field.name for field in dataclasses.fields(ClientConfig)]
    assert options["grpc_concurrency"] == {
        "value": 16,
        "source": f"file {file}:1",
        "is_default": False,
        "meaning": "Connections to each store in asyncio clients (a blocking client has one for each thread at work).",
        "allowed": "an integer between 1 and 64",
        "fields": {},
    }
    sources = {name: one["source"] for name, one in options.items()}
    assert sources["timeout"] == "URL query"
    assert sources["rpc_timeout"] == "environment PYTIKV_RPC_TIMEOUT"
    assert sources["keyspace"] == "URL path"
    assert sources["max_connections"] == "default"
    assert options["tls"]["fields"] == {"ca": f"file {file}:4", "cert": f"file {file}:5", "key": "URL query"}
    text = show("show", "--url", url, PYTIKV_RPC_TIMEOUT="1")
    assert f"\tfile {file}:1\tan integer between 1 and 64\tConnections to each store" in text
    assert f"\tca: file {file}:4, cert: file {file}:5, key: URL query\t" in text


def test_a_fault_is_one_line_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "pytikv.toml"
    file.write_text("\ngrpc-concurrency = 65\n")
    done = CliRunner().invoke(app, ["config", "show"], env={"PYTIKV_CONFIG": str(file)})
    assert done.exit_code == 2
    expected = f"error: {file}:2: option 'grpc_concurrency' must be an integer between 1 and 64, not 65\n"
    assert (done.stdout, done.stderr) == ("", expected)


def test_plain_config_is_as_it_was() -> None:
    assert "timeout\t2.5\tset\n" in show("--url", "tikv://pd1?timeout=2.5")
    assert json.loads(show("--json", "--url", "tikv://pd1"))["options"]["timeout"] == 10.0


def test_every_option_has_meaning_and_range() -> None:
    for one in explained(ClientConfig(), {}):
        assert one.meaning.endswith("."), one
        assert len(one.meaning) < 220, one
        assert one.allowed, one
        json.dumps(one.value)


@pytest.mark.parametrize("field", dataclasses.fields(ClientConfig), ids=lambda field: field.name)
def test_every_option_is_checked_by_a_kind(field: Any) -> None:
    check = field.metadata["check"]
    assert isinstance(check, Kind)
    default = getattr(ClientConfig(), field.name)
    if default is not None:
        assert check(field.name, default) == default


def test_secrets_are_not_shown() -> None:
    @dataclasses.dataclass
    class Options:
        user_token: str = "hunter2"
        """What proves who we are. Not shown."""
        hook: Any = len

    user_token, hook = explained(Options(), {})
    assert (user_token.value, user_token.source) == ("***", "default")
    assert user_token.meaning == "What proves who we are."
    assert hook.value == "a builtin_function_or_method"


def test_no_source_no_meaning() -> None:
    assert meanings(type("Made", (), {})) == {}
