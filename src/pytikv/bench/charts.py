"""The one place that knows the library `pygal` (extra `bench`): charts as SVG to stand inside a page.

No script, no font and no style is loaded from anywhere: the picture is whole by itself.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pytikv.errors import ConfigError

__all__ = ["COLORS", "lines", "lines_by_name", "require"]

COLORS: Final = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#0b7285", "#e67700", "#495057")
_WIDTH: Final = 900
_HEIGHT: Final = 320

_SCRIPT: Final = re.compile(r"<script\b.*?</script>", re.DOTALL)

Points = Sequence[tuple[float, float]]


def _library() -> Any:
    try:
        library = importlib.import_module("pygal")
    except ImportError:
        raise ConfigError('charts need pygal: pip install "pytikv[bench]"') from None
    # It leaves a finder behind, for plug-ins that we do not use, of which Python 3.11 complains at other imports.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
    return library


def require() -> None:
    """Raise ConfigError, which says how to get it, where the library is missing."""
    _library()


def _options(unit: str, series: int) -> dict[str, Any]:
    style = importlib.import_module("pygal.style").Style(
        background="transparent",
        plot_background="transparent",
        foreground="#333",
        foreground_strong="#111",
        foreground_subtle="#999",
        opacity=".9",
        guide_stroke_color="#ddd",
        major_guide_stroke_color="#bbb",
        font_family="system-ui, sans-serif",
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=13,
        title_font_size=14,
        value_font_size=11,
        colors=COLORS,
    )
    return {
        "style": style,
        "js": [],
        "width": _WIDTH,
        "height": _HEIGHT,
        "explicit_size": True,
        "disable_xml_declaration": True,
        "show_dots": False,
        "stroke_style": {"width": 2},
        "legend_at_bottom": True,
        "legend_at_bottom_columns": max(1, min(4, series)),
        "legend_box_size": 12,
        "margin": 12,
        "y_title": unit,
        "value_formatter": lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.3g}",
    }


def lines(series: Mapping[str, Points], *, unit: str, x_title: str) -> str:
    """Return a chart of lines through points of (x, y), as the text of an SVG element; y begins at 0."""
    top = max((y for points in series.values() for _, y in points), default=1.0) or 1.0
    chart = _library().XY(**_options(unit, len(series)), x_title=x_title, range=(0, top * 1.05))
    for name, points in series.items():
        chart.add(name, list(points), show_dots=len(points) == 1)
    return _SCRIPT.sub("", chart.render(is_unicode=True))


def lines_by_name(
    names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, unit: str, x_title: str | None = None
) -> str:
    """Return a chart of lines over named places, with a logarithmic scale, as the text of an SVG element."""
    options = {**_options(unit, len(series)), "show_dots": True, "dots_size": 3, "x_title": x_title}
    chart = _library().Line(**options, logarithmic=True)
    chart.x_labels = list(names)
    chart.y_labels = _round_values(value for values in series.values() for value in values if value)
    for name, values in series.items():
        chart.add(name, list(values))
    return _SCRIPT.sub("", chart.render(is_unicode=True))


def _round_values(values: Iterable[float]) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, from below the least to above the largest of positive `values`."""
    found = list(values) or [1.0]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    marks = [step * 10.0**power for power in range(low, high + 1) for step in (1, 2, 5)]
    below = max((mark for mark in marks if mark <= min(found)), default=marks[0])
    above = min((mark for mark in marks if mark >= max(found)), default=marks[-1])
    return [mark for mark in marks if below <= mark <= above]
