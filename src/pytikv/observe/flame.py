"""A flame-like chart: time as nested bars, in a terminal or on a page of its own.

Each bar is as long as its time, the bars below it are what it consists of, longest first. A part keeps its colour
wherever it stands. The page is one file: an SVG, tables, styles; no scripts, nothing is loaded.

What is shorter than `MIN_SHARE` of the whole is joined into "other" on its level.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Final

from pytikv.observe.attribution import Part
from pytikv.observe.text_table import Column

__all__ = ["Node", "bar", "bars", "duration", "grow", "page"]

MIN_SHARE: Final = 0.002
_UNITS: Final = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_COLOURS: Final = {
    Part.APPLICATION.value: "#c9ced6",
    Part.CLIENT.value: "#f2b134",
    Part.NETWORK.value: "#5b8def",
    Part.SERVER.value: "#3fae7a",
    Part.SERVER_QUEUE.value: "#9fd8b8",
    Part.LOCK_WAIT.value: "#e0524d",
    Part.BACKOFF.value: "#ef8e5b",
    Part.TSO.value: "#a678de",
    Part.REGION_LOAD.value: "#57c4d1",
    Part.CONNECT.value: "#8a9bb0",
    Part.QUEUE.value: "#d9739f",
    Part.PROFILE.value: "#b5a98f",
}
_PLAIN: Final = "#e8ebf0"


@dataclasses.dataclass(slots=True)
class Node:
    """A bar; `children` lie below it and take up no more than its time."""

    name: str
    seconds: float = 0.0
    children: list[Node] = dataclasses.field(default_factory=list)
    colour: str = _PLAIN


def grow(shares: Mapping[tuple[str, ...], float], name: str) -> Node:
    """Return the tree of what is given as seconds by path."""
    root = Node(name)
    for path, seconds in shares.items():
        node = root
        node.seconds += seconds
        colour = _PLAIN
        for step in path:
            colour = _COLOURS.get(step, colour)
            child = next((child for child in node.children if child.name == step), None)
            if child is None:
                child = Node(step, colour=colour)
                node.children.append(child)
            child.seconds += seconds
            node = child
    _prune(root, root.seconds * MIN_SHARE)
    return root


def _prune(node: Node, least: float) -> None:
    small = [child for child in node.children if child.seconds < least]
    kept = sorted((child for child in node.children if child.seconds >= least), key=lambda child: -child.seconds)
    rest = sum(child.seconds for child in small)
    node.children = [*kept, Node("other", rest)] if rest >= least and rest > 0 else kept
    for child in kept:
        _prune(child, least)


def duration(seconds: float) -> str:
    """Return a time for people, with three digits.

    >>> duration(0.0012345), duration(12.5)
    ('1.23 ms', '12.5 s')
    """
    unit, size = next((unit for unit in _UNITS if seconds >= unit[1] * 0.9995), _UNITS[-1])
    value = seconds / size
    digits = 0 if value >= 99.95 or not value else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def bar(share: float, width: int) -> str:
    """Return a bar as long as `share` (0 to 1) of `width` characters, in eighths."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


# --- in a terminal ----------------------------------------------------------------------------------------------------


def bars(root: Node, width: int) -> list[str]:
    """Return a line for each bar: its name, indented by its depth, the bar itself where it lies, time and percent."""
    rows: list[tuple[str, float, float, float]] = []
    _collect(root, 0, 0.0, rows)
    names = min(max(len(row[0]) for row in rows), max(20, width // 2))
    room = max(10, width - names - 20)
    whole = root.seconds or 1.0
    lines = []
    for name, offset, seconds, share_of in rows:
        start = round(offset / whole * room)
        drawn = bar(seconds / whole, room) or "▏"
        figures = f"{duration(seconds):>8} {100 * share_of:5.1f} %"
        lines.append(f"{_shorten(name, names):<{names}}  {figures}  {' ' * start}{drawn}"[:width].rstrip())
    return lines


def _collect(
    node: Node, depth: int, offset: float, rows: list[tuple[str, float, float, float]], whole: float = 0.0
) -> None:
    whole = whole or node.seconds or 1.0
    rows.append(("  " * depth + node.name, offset, node.seconds, node.seconds / whole))
    for child in node.children:
        _collect(child, depth + 1, offset, rows, whole)
        offset += child.seconds


def _shorten(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


# --- on a page --------------------------------------------------------------------------------------------------------

_WIDTH: Final = 1160
_ROW: Final = 24
_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; color: #1f2530; margin: 32px auto; max-width: 1160px; padding: 0 16px }
h1 { font-size: 20px; margin: 0 } p { color: #5a6472 } table { border-collapse: collapse; margin: 24px 0 }
th, td { padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid #e3e7ec }
td { font-variant-numeric: tabular-nums }
th { color: #5a6472; font-weight: 600 } .text { text-align: left } svg { width: 100%; height: auto; margin-top: 12px }
svg text { font: 12px system-ui, sans-serif; fill: #1f2530; pointer-events: none }
rect { stroke: #fff; stroke-width: 1 }
rect:hover { opacity: 0.75 } .key { display: inline-block; width: 11px; height: 11px; margin: 0 5px 0 14px }
"""


def page(root: Node, headline: str, tables: Sequence[tuple[Sequence[Column], Sequence[Sequence[str]]]]) -> str:
    """Return the page: headline, chart, key of colours, tables."""
    shapes: list[str] = []
    depth = _draw(root, 0.0, 0, _WIDTH / root.seconds if root.seconds > 0 else 0.0, root.seconds, shapes)
    view = f'viewBox="0 0 {_WIDTH} {depth * _ROW}"'
    used = {part: colour for part, colour in _COLOURS.items() if any(colour in shape for shape in shapes)}
    key = "".join(f'<span class="key" style="background:{c}"></span>{html.escape(part)}' for part, c in used.items())
    body = f'<svg {view} role="img">{"".join(shapes)}</svg><p>{key}</p>{"".join(map(_html_table, tables))}'
    head = f'<meta charset="utf-8"><title>pytikv profile</title><style>{_STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body><h1>{html.escape(headline)}</h1>{body}</body></html>\n"


def _draw(node: Node, x: float, depth: int, scale: float, whole: float, shapes: list[str]) -> int:
    """Draw a bar and those below it; returns how many rows that takes."""
    width = node.seconds * scale
    share = node.seconds / whole if whole else 0.0
    title = html.escape(f"{node.name}: {duration(node.seconds)}, {100 * share:.1f} %")
    place = f'x="{x:.2f}" y="{depth * _ROW}" width="{width:.2f}" height="{_ROW - 1}" rx="2"'
    shapes.append(f'<rect {place} fill="{node.colour}"><title>{title}</title></rect>')
    fits = int((width - 10) / 6.9)
    if fits >= 3:
        label = _shorten(f"{node.name} · {duration(node.seconds)}", fits)
        shapes.append(f'<text x="{x + 5:.2f}" y="{depth * _ROW + 16}">{html.escape(label)}</text>')
    rows = depth + 1
    for child in node.children:
        rows = max(rows, _draw(child, x, depth + 1, scale, whole, shapes))
        x += child.seconds * scale
    return rows


def _html_table(table: tuple[Sequence[Column], Sequence[Sequence[str]]]) -> str:
    columns, rows = table

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = zip(cells, columns, strict=True)
        kinds = ((html.escape(cell), ' class="text"' if column.is_text else "") for cell, column in marked)
        return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in kinds) + "</tr>"

    return "<table>" + line("th", [c.title for c in columns]) + "".join(line("td", row) for row in rows) + "</table>"
