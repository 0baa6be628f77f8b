"""Generate `src/pytikv/monitoring/data/*.json`, Grafana's dashboards, from the boards declared in `pytikv.monitoring`.

The JSON is made by Grafana's own library (grafana-foundation-sdk), whose types say what Grafana takes; it is a tool of
developers, what is shipped is the JSON.

    python tools/gen_dashboards.py            write the files
    python tools/gen_dashboards.py --check    exit 1 when the committed files are not what would be written
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from pytikv.monitoring.board import Board, Panel
from pytikv.monitoring.client_board import CLIENT_BOARD
from pytikv.monitoring.server_board import SERVER_BOARD

BOARDS = (CLIENT_BOARD, SERVER_BOARD)
OUT = Path(__file__).resolve().parent.parent / "src" / "pytikv" / "monitoring" / "data"
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="$datasource")
HEIGHTS = {"stat": 4, "timeseries": 8, "state": 8}


def render(board: Board) -> str:
    """Return the JSON of a dashboard."""
    made = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(list(board.tags))
        .editable()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(builders.DashboardLink("TiKV").tags(["tikv"]).as_dropdown(True).include_vars(False).keep_time(True))
    )
    for variable in variables(board):
        made.with_variable(variable)
    made.annotation(alerts_fired())
    numbers = itertools.count(1)
    for row in board.rows:
        made.with_row(builders.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(panel_builder(panel).id(next(numbers)))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def variables(board: Board) -> list[Any]:
    """Return the variables: which Prometheus, which jobs and instances, over which window."""
    every = dashboard.VariableOption(selected=True, text=["All"], value=["$__all"])
    known_by = f'__name__=~"{"|".join(board.known_by)}"'
    job = builders.QueryVariable("job").label("Job").query(f"label_values({{{known_by}}}, job)")
    instance = builders.QueryVariable("instance").label("Instance")
    instance.query(f'label_values({{{known_by},job=~"$job"}}, instance)')
    for choice in (job, instance):
        choice.datasource(SOURCE).multi(True).include_all(True).current(every)  # all that the query found, not ".*"
        choice.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        choice.sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    return [
        builders.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        job,
        instance,
        builders.IntervalVariable("interval")
        .label("Window of rates")
        .values("1m,5m,15m,1h")
        .current(dashboard.VariableOption(selected=True, text="1m", value="1m")),
    ]


def alerts_fired() -> builders.AnnotationQuery:
    """Return marks on all charts where an alert fired."""
    expr = 'ALERTS{alertname=~"Tikv.*",alertstate="firing",job=~"$job"}'
    return builders.AnnotationQuery().name("Alerts").datasource(SOURCE).enable(True).icon_color("red").expr(expr)


def panel_builder(panel: Panel) -> Any:
    """Return the builder of one panel, with its queries."""
    make = {"timeseries": series, "stat": figure, "state": states}[panel.kind]
    made = make(panel).title(panel.title).description(panel.description).datasource(SOURCE)
    made.span(panel.width).height(HEIGHTS[panel.kind])
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + number))
        made.with_target(target.datasource(SOURCE).range().exemplar(query.exemplar))
    return made


def series(panel: Panel) -> Any:
    """Return a chart over time."""
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE).show_legend(True)
    legend.placement(common.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    tooltip.sort(common.SortOrder.DESCENDING)
    made = timeseries.Panel().unit(panel.unit).legend(legend).tooltip(tooltip).min(0)
    made.line_width(1).show_points(common.VisibilityMode.AUTO).fill_opacity(10)
    if panel.stacked:
        made.fill_opacity(40).stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if panel.log_scale:
        scale = common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        made.fill_opacity(0).scale_distribution(scale)
    return made


def figure(panel: Panel) -> Any:
    """Return one number, with its colour."""
    made = stat.Panel().unit(panel.unit).reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    made.graph_mode(common.BigValueGraphMode.AREA)
    if panel.thresholds:
        steps = [dashboard.Threshold(value=step.value, color=step.colour) for step in panel.thresholds]
        made.thresholds(builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))
        made.color_mode(common.BigValueColorMode.BACKGROUND)
    else:
        made.color_mode(common.BigValueColorMode.NONE)
    return made


def states(panel: Panel) -> Any:
    """Return a band over time for each series, coloured by its state."""
    options = {
        str(value): dashboard.ValueMappingResult(text=name, color=colour, index=index)
        for index, (value, name, colour) in enumerate(panel.states)
    }
    made = statetimeline.Panel().mappings([dashboard.ValueMap(options=options)]).merge_values(True)
    return made.show_value(common.VisibilityMode.AUTO).fill_opacity(80)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate Grafana's dashboards.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check: bool = parser.parse_args().check
    fresh = {OUT / f"{board.uid}.json": render(board) for board in BOARDS}
    stale = [path for path, text in fresh.items() if not path.exists() or path.read_text() != text]
    if check:
        for path in stale:
            print(f"stale: {path.name} (run: python tools/gen_dashboards.py)")
        return 1 if stale else 0
    OUT.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(fresh[path])
    print(f"{len(fresh)} files, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
