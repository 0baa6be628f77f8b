"""Typed records over transactions: tables of classes, with unique and secondary indexes.

`Table` declares one; everything else serves it. Needs the extra `model` (msgspec) but for protobuf messages.

What works on whole tables or on many is in modules of its own: `batch` (a writer for records of many tables), `bulk`
(load), `export`, `regions` (parts to read in parallel), `patterns` (strategies, counters, sequences, leases).
"""

from __future__ import annotations

from pytikv.model.errors import CursorError, RowError, RowExists, SchemaError, UniqueViolation
from pytikv.model.maintain import CheckReport, Problem
from pytikv.model.planner import Prefix
from pytikv.model.schema import Index
from pytikv.model.table import Page, Table
from pytikv.model.tuples import Desc
from pytikv.model.walk import Progress

__all__ = [
    "CheckReport",
    "CursorError",
    "Desc",
    "Index",
    "Page",
    "Prefix",
    "Problem",
    "Progress",
    "RowError",
    "RowExists",
    "SchemaError",
    "Table",
    "UniqueViolation",
]
