"""The table of errors says of every class what the class says."""

from __future__ import annotations

import re
from pathlib import Path

import pytikv
import pytikv.model
import pytikv.model.patterns

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md"


def test_the_table_holds_every_error() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|$", PAGE.read_text(), re.MULTILINE))
    classes = {
        name: value
        for name in pytikv.__all__
        if isinstance(value := getattr(pytikv, name), type) and issubclass(value, pytikv.TikvError)
    }
    classes |= {
        f"model.{name}": value
        for name in pytikv.model.__all__
        if isinstance(value := getattr(pytikv.model, name), type) and issubclass(value, pytikv.TikvError)
    }
    classes |= {
        f"model.patterns.{name}": value
        for name in pytikv.model.patterns.__all__
        if isinstance(value := getattr(pytikv.model.patterns, name), type) and issubclass(value, pytikv.TikvError)
    }
    assert set(rows) == set(classes) - {"TikvError"}
    for name, row in rows.items():
        retryable, outcome, advice = (cell.strip() for cell in row.split(" | "))
        assert advice
        if name != "BatchError":
            assert retryable == ("yes" if classes[name].retryable else "no"), name
            assert outcome == classes[name].outcome.name, name
