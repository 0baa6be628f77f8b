"""Seeing what clients do: metrics, traces, logs, profiles. No exporter is needed by the core.

`telemetry` is the middle: the request path reports to it, exporters (sinks) hear from it.
"""
