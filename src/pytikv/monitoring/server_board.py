"""The dashboard of the servers: `pytikv serve`, and real TiKV and PD, which name their metrics alike.

Rows: the store's requests, its writes, its data, then PD. It shows what both have; TiKV's own dashboards show the rest
of a real cluster. `$job` holds the stores' and PD's jobs together.

Sources: metric names and labels are TiKV's (`metrics.rs` of src/server, src/storage, components/engine_rocks) and PD's
(`metrics.go` of server, pkg/tso, pkg/statistics).
"""

from __future__ import annotations

from typing import Final

from pytikv.monitoring.board import Board, Panel, Query, Row, per_second, quantile

__all__ = ["SERVER_BOARD"]

_MESSAGES: Final = "tikv_grpc_msg_duration_seconds"

_REQUESTS: Final = Row(
    "Requests to stores",
    (
        Panel(
            "Requests by type",
            "Requests that a store answered in a second.",
            (Query(per_second(f"{_MESSAGES}_count", "type"), "{{type}}"),),
            unit="reqps",
        ),
        Panel(
            "P99 by type",
            "Time of a request inside the store: 99 of 100 were quicker. What clients see on top of it is the network"
            " and waiting on their side.",
            (Query(quantile(0.99, _MESSAGES, "type"), "{{type}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Requests by store",
            "A store that gets far more than the others holds hot regions.",
            (Query(per_second(f"{_MESSAGES}_count", "instance"), "{{instance}}"),),
            unit="reqps",
        ),
    ),
)

SERVER_BOARD: Final = Board(
    uid="pytikv-server",
    title="pytikv / servers",
    description="pytikv serve, TiKV and PD: requests, writes, data, timestamps, regions.",
    tags=("pytikv", "tikv"),
    job_metric="process_start_time_seconds",
    rows=(_REQUESTS,),
)
