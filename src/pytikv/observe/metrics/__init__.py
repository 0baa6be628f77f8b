"""Metrics for Prometheus: what clients do and hold, under the names that dashboards and alerts rely on.

    pytikv.metrics.install()                      # count from now on, into prometheus_client's own registry
    client.serve_metrics(port=9100)               # the same, and serve it
    app = pytikv.metrics.wsgi_app()               # or asgi_app(): to be mounted at /metrics of a web application

This package is the one adapter to prometheus_client (``pip install "pytikv[metrics]"``). `sink` counts calls and their
steps as they end (names and labels: `families`); `gauges` tells what clients hold at the moment of a scrape.

* *Once a registry*: asked again for a registry, `install` returns the `Metrics` that it has; so two clients, a client
  opened again, or an application that is loaded twice, count into the same series.
* *Forks*: a forked child begins with counts of its own, all zero.
* *Several processes* (``PROMETHEUS_MULTIPROC_DIR``, as gunicorn's workers need it): counts are files of
  prometheus_client's then, no registry is told of them, and what the applications here serve is the sum over all
  processes, as is what a registry with its MultiProcessCollector collects. Gauges are written to the files a second
  after a call has ended, and summed or, where that means nothing, the highest is told; exemplars are not kept
  (prometheus_client has no place for them there).
* *Exemplars*: where a call has a trace id (of a span, or of `pytikv.context`), the bucket that it falls into names it.
  They are part of the OpenMetrics format only, which Prometheus asks for when its exemplar storage is on.
* *Faults* of this package never reach a call: see `observe.telemetry`.
"""

from __future__ import annotations

from pytikv.errors import ConfigError

try:
    from pytikv.observe.metrics.buckets import DEFAULT_BUCKETS
    from pytikv.observe.metrics.serving import MetricsServer, asgi_app, serve, wsgi_app
    from pytikv.observe.metrics.sink import Metrics, install, uninstall
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ConfigError('metrics need prometheus_client: pip install "pytikv[metrics]"') from error

__all__ = [
    "DEFAULT_BUCKETS",
    "Metrics",
    "MetricsServer",
    "asgi_app",
    "install",
    "serve",
    "uninstall",
    "wsgi_app",
]
