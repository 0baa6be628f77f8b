"""Watching programs that use TiKV: dashboards, recording and alert rules, and the files to start watching with.

    board            what a dashboard is: rows, panels, queries; pure data
    client_board     the dashboard of programs that use this library
    server_board     the dashboard of `pytikv serve` and of TiKV and PD
    rules            recording rules and alerts
    kit              the directory that `pytikv monitoring init` writes
    yaml             the little YAML that the above need

What is watched is declared once, here, and rendered: `tools/gen_dashboards.py` makes Grafana's JSON (package data under
`data/`) with Grafana's own library, `kit` makes Prometheus' files. Nothing in this room reads a metric or keeps time.
"""
