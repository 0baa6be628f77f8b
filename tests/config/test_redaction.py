"""What may be a secret is in no message, no repr, no output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.config import gather_config
from pytikv.errors import ConfigError, TikvError
from pytikv.settings.kinds import is_secret
from pytikv.url import Target, parse_target, redacted

# A word that no other part of a message has, around which anything may stand.
SECRETS = st.builds(
    lambda before, after: f"{before}hunter2{after}", *[st.text("abcXYZ019 ?:&=/%#,.[]-_~!$", max_size=6)] * 2
)
NAMES = st.sampled_from(["password", "user_token", "token", "client-secret", "api_key", "auth", "PASSWD", "pass"])


def parsed_or_refused(target: str) -> Target | TikvError:
    try:
        return parse_target(target)
    except TikvError as error:
        return error


@given(
    SECRETS,
    st.sampled_from(
        [
            "tikv://me:{}@pd1:2379",
            "tikv://me:{}@pd1,pd2/shop?timeout=5",
            "me:{}@pd1:2379",
            "pd0,me:{}@pd1:2379",
            "http://me:{}@pd1:2379",
            "https://pd0:2379,http://me:{}@pd1",
            "tikv://me:{}",
            "k8s://me:{}@x",
        ],
    ),
)
def test_a_password_in_a_target_is_never_repeated(secret: str, shape: str) -> None:
    target = shape.format(secret)
    parsed = parsed_or_refused(target)
    # Where it is a target all the same, a fragment of the password made it one of another kind: a host or a path.
    if isinstance(parsed, TikvError):
        assert "hunter2" not in str(parsed) + repr(parsed)
    if "@" in shape:
        assert "hunter2" not in redacted(target)


@given(SECRETS.filter(lambda text: "&" not in text and "#" not in text), NAMES)
def test_a_secret_parameter_is_never_repeated(secret: str, name: str) -> None:
    target = f"tikv://pd1:2379/shop?timeout=5&{name}={secret}"
    assert "hunter2" not in redacted(target)
    parsed = parsed_or_refused(target)
    assert "hunter2" not in str(parsed) + repr(parsed)
    if isinstance(parsed, TikvError):
        return
    assert "timeout=5" in repr(parsed)
    with pytest.raises(ConfigError) as caught:
        gather_config({}, parsed.query, {})
    assert "hunter2" not in str(caught.value)


def test_what_redacted_leaves() -> None:
    plain = "tikv://[::1]:2379,pd2/shop?timeout=5&ca=/etc/ca.pem"
    assert redacted(plain) == plain
    assert redacted("embedded:///data/me@home?token=x") == "embedded:///data/me@home?token=***"


def test_wrong_secrets_are_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        gather_config({"token_provider": "hunter2"}, {}, {})
    assert "hunter2" not in str(caught.value)
    assert is_secret("user-token")
    assert not is_secret("key")
    assert not is_secret("timeout")
