"""Typed records over transactions: tables, keys, codecs, indexes. Public names are listed here as they come."""
