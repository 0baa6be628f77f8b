"""The YAML writer against a reader of YAML."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.monitoring.yaml import dump

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

AMBIGUOUS = ["yes", "No", "null", "1", "1e3", "0x1", "~", "-", "a: b", "a #b", "1:30", ".5", "2026-01-01", "=", "<<"]
LETTERS = "".join(map(chr, range(32, 127))) + "\nüß"

scalars = st.text(LETTERS) | st.sampled_from(AMBIGUOUS) | st.integers() | st.booleans()
keys = st.text("abc-:. 1/", max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(keys, trees, min_size=1, max_size=4))
def test_what_is_written_reads_back(data: dict[str, Any]) -> None:
    assert yaml.safe_load(dump(data, head="two\nlines")) == data


def test_it_reads_well() -> None:
    text = dump({"a": [{"b": 1, "c": "x y"}, "15s"], "d": {}, "e": "up == 0"}, head="Made")
    assert text == '# Made\na:\n  - b: 1\n    c: x y\n  - "15s"\nd: {}\ne: "up == 0"\n'
