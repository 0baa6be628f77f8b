"""Finding the tables that `pytikv table` works with: declared in a module, named by its import path or its file.

`shop.tables`, `shop.tables:users`, `tables.py`, `tables.py:users`. Without an attribute, all tables of the module. An
attribute may also be a list or a dict of tables. The working directory is searched first, as with `python -m`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytikv.cli.failures import USAGE, Failure

if TYPE_CHECKING:
    from pytikv.model import Table

__all__ = ["find_table", "find_tables"]

_ADVICE = "name a module with --tables or PYTIKV_TABLES: shop.tables, shop.tables:users, tables.py"


def find_tables(spec: str | None) -> dict[str, Table[Any]]:
    """Return the tables of a module by their names. Raises Failure."""
    if not spec:
        raise Failure("no tables are given", advice=_ADVICE, code=USAGE)
    name, _, attribute = spec.partition(":")
    module = _import(name)
    found: Any = vars(module)
    if attribute:
        if not hasattr(module, attribute):
            raise Failure(f"module {name} has no {attribute!r}", code=USAGE)
        found = getattr(module, attribute)
    tables = _tables(found)
    if not tables:
        raise Failure(f"there is no table in {spec}", advice="declare them at the top of the module", code=USAGE)
    return tables


def find_table(spec: str | None, name: str) -> Table[Any]:
    """Return the table of a name. Raises Failure."""
    tables = find_tables(spec)
    if name not in tables:
        raise Failure(f"there is no table {name!r} in {spec}; it has {', '.join(tables)}", code=USAGE)
    return tables[name]


def _tables(found: Any) -> dict[str, Table[Any]]:
    from pytikv.model import Table

    if isinstance(found, Table):
        return {found.name: found}
    if isinstance(found, Mapping):
        found = found.values()
    if isinstance(found, Iterable) and not isinstance(found, (str, bytes)):
        return {table.name: table for table in found if isinstance(table, Table)}
    return {}


def _import(name: str) -> Any:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except ModuleNotFoundError as error:
        advice = _ADVICE if error.name is not None and name.startswith(error.name) else ""
        raise Failure(f"module {name} cannot be imported: {error}", advice=advice, code=USAGE) from None
    except FileNotFoundError:
        raise Failure(f"there is no file {name}", advice=_ADVICE, code=USAGE) from None
    except Exception as error:
        raise Failure(f"module {name} cannot be imported: {type(error).__name__}: {error}", code=USAGE) from error


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
