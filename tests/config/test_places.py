"""Where options come from: spellings, tables from several places, and what a wrong one is told."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.config import TLS, ClientConfig, gather_config
from pytikv.errors import ConfigError
from pytikv.settings import kinds, places
from pytikv.settings.explain import explained
from pytikv.settings.toml_lines import key_lines


@dataclasses.dataclass(frozen=True)
class Fuse:
    """An option with fields, as the guards of a store are."""

    error_rate: float = dataclasses.field(default=0.5, metadata=kinds.kind(kinds.number(0.0, 1.0)))
    window: float = dataclasses.field(default=10.0, metadata=kinds.kind(kinds.seconds()))
    name: str = "fuse"

    def __post_init__(self) -> None:
        if self.window > 100:
            raise ValueError("window must be at most 100")


SCHEMA = places.Schema({"fuse": kinds.record(Fuse), "size": kinds.integer(1, 9), "hook": kinds.function("a hook")}, {})


def read(file: Path | None = None, query: Any = (), environment: Any = (), **options: Any) -> dict[str, Any]:
    found = [
        places.from_file(SCHEMA, file) if file else {},
        places.from_environment(SCHEMA, dict(environment)),
        places.from_query(SCHEMA, dict(query)),
        places.from_arguments(SCHEMA, options),
    ]
    return places.checked(SCHEMA, places.merged(found))


# --- spellings --------------------------------------------------------------------------------------------------------


def test_dashes_are_underscores_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "pytikv.toml"
    file.write_text('grpc-concurrency = 12\nrpc-timeout = "5s"\nbackground-worker-size = 4\n[tls]\nca = "a"\n')
    gathered = gather_config(
        {"idle-timeout": "500ms", "config": file}, {"max-connections": "9"}, {"PYTIKV_PD-TIMEOUT": "2m"}
    )
    config = gathered.config
    assert (config.grpc_concurrency, config.rpc_timeout, config.background_worker_size) == (12, 5.0, 4)
    assert (config.max_connections, config.idle_timeout, config.pd_timeout) == (9, 0.5, 120.0)
    assert gathered.sources == {
        "grpc_concurrency": f"file {file}:1",
        "rpc_timeout": f"file {file}:2",
        "background_worker_size": f"file {file}:3",
        "tls": f"file {file}:5",
        "tls.ca": f"file {file}:5",
        "pd_timeout": "environment PYTIKV_PD-TIMEOUT",
        "max_connections": "URL query",
        "idle_timeout": "argument",
    }


def test_case_is_kept() -> None:
    with pytest.raises(ConfigError, match="did you mean 'grpc_concurrency'"):
        gather_config({}, {"grpc-Concurrency": "8"}, {})


@pytest.mark.parametrize("query", [{"grpc-concurrency": "8", "grpc_concurrency": "9"}, {"ca": "a", "tls.ca": "b"}])
def test_two_spellings_in_one_place_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="stands twice in the URL's query"):
        gather_config({}, query, {})


# --- tables -----------------------------------------------------------------------------------------------------------


def test_fields_of_a_table_come_from_several_places(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[fuse]\nerror-rate = 0.1\nwindow = 1\nname = 'file'\n")
    query, environment = {"fuse.error_rate": "0.3"}, {"PYTIKV_FUSE__WINDOW": "2s"}
    assert read(file, query, environment) == {"fuse": Fuse(0.3, 2.0, "file")}
    assert read(file, query, fuse=Fuse(name="whole")) == {"fuse": Fuse(name="whole")}
    assert read(file, {"fuse": "off"}) == {"fuse": None}
    assert read(query={"fuse": "on"}) == {"fuse": Fuse()}
    assert read(query={"fuse.window": "3", "fuse": "on"}) == {"fuse": Fuse(window=3.0)}
    assert read(file, fuse={"window": 7}) == {"fuse": Fuse(0.1, 7.0, "file")}
    with pytest.raises(ConfigError, match="'fuse' is off in the URL's query"):
        read(query={"fuse.window": "3", "fuse": "off"})


def test_tls_is_such_a_table(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('[tls]\nca = "ca.pem"\ncert = "old.pem"\n')
    gathered = gather_config({"config": file}, {"cert": "c.pem"}, {"PYTIKV_TLS__KEY": "k.pem"})
    assert gathered.config.tls == TLS("ca.pem", "c.pem", "k.pem")
    assert gathered.sources["tls.cert"] == "URL query"
    assert gathered.sources["tls"] == f"file {file}:2, URL query, environment PYTIKV_TLS__KEY"


def test_service_classes_are_such_a_table(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('[sla]\ncore = 0.05\nmy-class = "200ms"\n')
    config = gather_config({"config": file, "sla": {"core": 0.01}}, {}, {}).config
    assert dict(config.sla) == {"core": 0.01, "my-class": 0.2}
    assert dict(gather_config({}, {"sla": "core=0.05,background=1s"}, {}).config.sla) == {"core": 0.05, "background": 1}


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\ntimeout = "soon"\n', r"f.toml:2: option 'timeout' must be a number of seconds between 0.001 and 86400"),
        ("\n\ntimeot = 5\n", r"unknown option 'timeot' in the file '.*f.toml', line 3; did you mean 'timeout'"),
        ("a = 1\nx = \n", r"f.toml' is not valid TOML: .*line 2"),
        ('a = 1\nx = """\n', r"f.toml' is not valid TOML: .*line 3"),
        ('timeout = 1\nreplica-read = "nearest"\n', r"f.toml:2: option 'replica_read' must be one of 'leader', 'foll"),
        ("timeout = 1\ntls.ca = 5\n", r"f.toml:2: option 'tls.ca' must be a string, not 5"),
        ('[tls]\nca = "a"\ncertt = "b"\n', r"f.toml:3: option 'tls' has no field 'certt'.*did you mean 'cert'"),
        ('tls = {ca = "a", cert = 7}\n', r"f.toml:1: option 'tls.cert' must be a string"),
        ("[sla]\ncore = 0.1\nslow = 0\n", r"f.toml:3: option 'sla.slow' must be a number of seconds"),
        (
            "[retry.kinds.tikvRPC]\ncap_ms = 9\nbase-ms = 0\n",
            r"f.toml:3: option 'retry.kinds.tikvRPC.base_ms'",
        ),
        ("[retry.kinds]\ntikvRCP = {}\n", r"f.toml:2: option 'retry.kinds' has no kind 'tikvRCP'.*mean 'tikvRPC'"),
        ("\nretry.max_attempts = 'x'\n", r"f.toml:2: option 'retry.max_attempts' must be an integer between 1 and"),
        ("\nretry_budget = 7\n", r"f.toml:2: option 'retry_budget' must be a number between 0.001 and 1, not 7"),
        ("[breaker]\nwindow_s = 1\nerror-rate = 2\n", r"f.toml:3: option 'breaker.error_rate' must be a number"),
        ("timeout = 3\nbulkhead = 0\n", r"f.toml:2: option 'bulkhead' must be"),
        ('token_provider = "os:getenv"\n', r"f.toml:1: option 'token_provider' must be .*a program passes it"),
    ],
)
def test_a_fault_in_a_file_names_file_line_key_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        gather_config({"config": file}, {}, {})


def test_a_fault_in_a_table_is_placed_at_its_field(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[fuse]\nerror-rate = 2\nwindow = 1\n")
    with pytest.raises(
        ConfigError, match=r"f.toml:2: option 'fuse.error_rate' must be a number between 0 and 1, not 2"
    ):
        read(file)
    file.write_text("[fuse]\nerror-rate = 0.2\nwindow = 101\n")
    with pytest.raises(ConfigError, match=r"f.toml:3: option 'fuse': window must be at most 100"):
        read(file)
    with pytest.raises(ConfigError, match=r"environment variable PYTIKV_FUSE__WINDOW: option 'fuse.window' must"):
        read(environment={"PYTIKV_FUSE__WINDOW": "soon"})


def test_variable_and_parameter_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^environment variable PYTIKV_TIMEOUT: option 'timeout' must be a number"):
        gather_config({}, {}, {"PYTIKV_TIMEOUT": "soon"})
    with pytest.raises(ConfigError, match=r"^the URL's parameter 'rpc-timeout': option 'rpc_timeout' must be a number"):
        gather_config({}, {"rpc-timeout": "0"}, {})
    with pytest.raises(ConfigError, match=r"^option 'timeout' must be"):
        gather_config({"timeout": "soon"}, {}, {})


def test_a_file_that_cannot_be() -> None:
    for path in ("/no/such/file.toml", "a\x00b", "/"):
        with pytest.raises(ConfigError, match="cannot read the configuration file"):
            gather_config({}, {"config": path}, {})


def test_callables_come_from_programs_only() -> None:
    with pytest.raises(ConfigError, match="a program passes it to connect, text cannot name it"):
        read(query={"hook": "os.getpid"})
    with pytest.raises(ConfigError, match="'hook' must be a hook, not 5"):
        read(hook=5)
    assert read(hook=len) == {"hook": len}


# --- lines ------------------------------------------------------------------------------------------------------------


def test_lines_of_keys() -> None:
    text = """# timeout = 1
timeout = 5 # not [this]
long = '''
[tls]
ca = 1
'''
list = [
  1, # ]
  2,
]
"odd key" = 1

[a.b] # deep
c = { d = { e = 1 } }
f.g = 2
[[rows]]
x = 1
[[rows]]
x = 2
"""
    assert key_lines(text) == {
        ("timeout",): 2,
        ("long",): 3,
        ("list",): 7,
        ("odd key",): 11,
        ("a",): 13,
        ("a", "b"): 13,
        ("a", "b", "c"): 14,
        ("a", "b", "c", "d"): 14,
        ("a", "b", "c", "d", "e"): 14,
        ("a", "b", "f"): 15,
        ("a", "b", "f", "g"): 15,
        ("rows",): 16,
        ("rows", "x"): 17,
    }


VALUES = st.sampled_from(["1", "'x'", '"""\n[t]\nk = 1\n"""', "[\n 1,\n 2\n]", "{ in = 1 }", "'''\n\n'''"])
NOISE = st.sampled_from(["", "\n", "# a = 1\n", "\n# [x]\n\n", "\t \n"])


@given(st.lists(st.tuples(NOISE, VALUES), max_size=8), st.lists(st.tuples(NOISE, VALUES), max_size=8))
def test_every_key_is_found_on_its_line(tops: list[tuple[str, str]], inner: list[tuple[str, str]]) -> None:
    text, expected = "", {}
    for depth, rows in (("", tops), ("table", inner)):
        if depth:
            text += "[table]\n"
        for number, (noise, value) in enumerate(rows):
            text += noise
            path = (depth, f"k{number}") if depth else (f"k{number}",)
            expected[path] = text.count("\n") + 1
            text += f"k{number} = {value}\n"
    found = key_lines(text)
    assert {path: line for path, line in found.items() if path in expected} == expected


# --- anything at all --------------------------------------------------------------------------------------------------

OPTIONS = sorted(field.name for field in dataclasses.fields(ClientConfig))
NAMES = st.sampled_from([*OPTIONS, "ca", "key", "config", "nothing"]) | st.text("ab.-_", max_size=4)
FIELDS = st.sampled_from(
    ["ca", "kinds", "error_rate", "error-rate", "max_attempts", "ratio", "tikvRPC", "base_ms", "x"]
)
SCALARS = (
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=8)
    | st.sampled_from(["true", "off", "p95", "5s", "0.5", "leader", "a=1", "nan", "1e400", "²"])
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.booleans()
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3))


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {as_toml(part)}' for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


@given(st.dictionaries(NAMES, ANYTHING, max_size=3))
def test_anything_is_a_configuration_or_a_config_error(options: dict[str, Any]) -> None:
    text = "".join(f'"{name}" = {as_toml(value)}\n' for name, value in options.items())
    words = {name: value if isinstance(value, str) else repr(value) for name, value in options.items()}
    variables = {f"PYTIKV_{name.upper()}": value for name, value in words.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f.toml"
        file.write_text(text)
        for places_ in (({**options}, {}, {}), ({}, words, {}), ({}, {}, variables), ({"config": file}, {}, {})):
            with contextlib.suppress(ConfigError):
                config = gather_config(*places_).config
                assert config == config.replace()  # reading again what was read changes nothing
                assert len(explained(config, {})) == len(OPTIONS)
