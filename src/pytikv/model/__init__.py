"""Typed records over transactions: tables of classes, with unique and secondary indexes.

`Table` declares one; everything else serves it. Needs the extra `model` (msgspec) but for protobuf messages.
"""

from __future__ import annotations

from pytikv.model.errors import CursorError, RowError, RowExists, SchemaError, UniqueViolation
from pytikv.model.planner import Prefix
from pytikv.model.schema import Index
from pytikv.model.table import Page, Table
from pytikv.model.tuples import Desc

__all__ = [
    "CursorError",
    "Desc",
    "Index",
    "Page",
    "Prefix",
    "RowError",
    "RowExists",
    "SchemaError",
    "Table",
    "UniqueViolation",
]
