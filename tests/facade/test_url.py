"""Targets: what is accepted, and what is said about the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.errors import ConfigError, WrongType
from pytikv.url import Target, parse_target, split_endpoint


@pytest.mark.parametrize(
    ("text", "path", "name", "query"),
    [
        ("embedded://:memory:", None, None, {}),
        ("embedded://:memory:shop", None, "shop", {}),
        ("embedded:///var/lib/app", "/var/lib/app", None, {}),
        ("embedded://data/app?sync=off", "data/app", None, {"sync": "off"}),
        ("EMBEDDED:///a%20b%3F", "/a b?", None, {}),
    ],
)
def test_embedded(text: str, path: str | None, name: str | None, query: dict[str, str]) -> None:
    target = parse_target(text)
    assert (target.scheme, target.path, target.name, dict(target.query)) == ("embedded", path, name, query)


@pytest.mark.parametrize(
    ("text", "endpoints", "keyspace", "query"),
    [
        ("tikv://pd1", ("pd1:2379",), None, {}),
        ("tikv://pd1:1,pd2:2,pd3:3/shop?ca=ca.pem&timeout=1.5", ("pd1:1", "pd2:2", "pd3:3"), "shop",
         {"ca": "ca.pem", "timeout": "1.5"}),
        ("tikv://[::1]:2379/", ("[::1]:2379",), None, {}),
        ("tikv://[fe80::1%eth0],127.0.0.1:9", ("[fe80::1%eth0]:2379", "127.0.0.1:9"), None, {}),
        ("127.0.0.1:2379,127.0.0.1:2379", ("127.0.0.1:2379",), None, {}),
        ("http://pd1:2379", ("pd1:2379",), None, {}),
        ("tikv://pd/my%20space", ("pd:2379",), "my space", {}),
    ],
)  # fmt: skip
def test_tikv(text: str, endpoints: tuple[str, ...], keyspace: str | None, query: dict[str, str]) -> None:
    target = parse_target(text)
    assert (target.endpoints, target.keyspace, dict(target.query)) == (endpoints, keyspace, query)


def test_list_of_endpoints() -> None:
    assert parse_target(["pd1:1", "http://pd2:2/"]).endpoints == ("pd1:1", "pd2:2")
    assert parse_target(("https://pd1",)) == Target("tikv", ("pd1:2379",), query={"tls": "true"})


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("redis://h:1", "unknown scheme 'redis'"),
        ("k8s://ns/cluster", "later release"),
        ("embedded://", "needs a place"),
        ("embedded:///a%00b", "NUL"),
        ("tikv://", "endpoint"),
        ("tikv://h:0", "valid port"),
        ("tikv://h:99999", "valid port"),
        ("tikv://h:x", "valid port"),
        ("tikv://::1:2379", "brackets"),
        ("tikv://[zz]:1", "IPv6"),
        ("tikv://h:1/a/b", "one keyspace"),
        ("tikv://h:1?timeout", "malformed"),
        ("tikv://h:1?timeout=1&timeout=2", "stands twice"),
        ("tikv://h#x", "fragment"),
        ("", "endpoint"),
        ("/var/lib/app", "endpoint"),
        ("embedded:/x", "valid port"),
        ([], "names no PD endpoint"),
        (["tikv://pd:1"], "unknown scheme 'tikv' in an endpoint"),
    ],
)
def test_wrong_targets_are_explained(text: str, fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        parse_target(text)


@pytest.mark.parametrize("target", [None, 7, b"tikv://h", [b"h:1"], {"h:1": 1}])
def test_wrong_types(target: object) -> None:
    with pytest.raises(WrongType):
        parse_target(target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["tikv://root:hunter2@pd:2379", "http://root:hunter2@pd:2379", "root:hunter2@pd:2379", "redis://root:hunter2@h"],
)
def test_credentials_are_never_repeated(text: str) -> None:
    for target in (text, [text]):
        with pytest.raises(ConfigError) as caught:
            parse_target(target)
        assert "hunter2" not in str(caught.value)
        assert "root" not in str(caught.value)


@given(st.text(max_size=40))
def test_parsing_never_fails_otherwise(text: str) -> None:
    for target in (text, f"tikv://{text}", f"embedded://{text}", [text]):
        try:
            parsed = parse_target(target)
        except ConfigError:
            continue
        assert all(split_endpoint(endpoint) for endpoint in parsed.endpoints)


def test_target_reads_well() -> None:
    assert str(parse_target("tikv://a:1,b:2/ks?key=secret")) == "tikv://a:1,b:2/ks"
    assert str(parse_target("embedded://:memory:x")) == "embedded://:memory:x"
