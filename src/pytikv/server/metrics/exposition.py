"""Families of metrics as a page, by prometheus_client: the only module of the server that knows the library.

Each page has a registry of its own, so that what the process registers elsewhere does not show here, and two servers
in one process do not meet. Beside the families given, a page has the process's own metrics (``process_*``).

The library writes a counter's name with the ending ``_total``. Some of TiKV's and PD's counters have none: their name
stays as it is, and their type is then given as untyped, which Prometheus treats alike.

Content negotiation is the library's: the text format, or OpenMetrics for who asks for it in `Accept`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from pytikv.errors import ConfigError
from pytikv.server.http import HttpResponse, text_response
from pytikv.server.metrics.model import Family

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["REMEDY", "MetricsPage"]

REMEDY: Final = 'metrics need prometheus_client: pip install "pytikv[metrics]"'
_TOTAL: Final = "_total"


class MetricsPage:
    """A ``/metrics`` page. `families()` is called for each request."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type, for what a client's `Accept` says. Raises ConfigError, see `REMEDY`."""
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
            from prometheus_client.exposition import choose_encoder
            from prometheus_client.metrics_core import Metric
            from prometheus_client.registry import Collector
        except ImportError:
            raise ConfigError(REMEDY) from None
        families = self._families

        class Families(Collector):
            def collect(self) -> Iterable[Metric]:
                return (_metric(Metric, family) for family in families())

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(Families())
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def answer(self, accept: str = "") -> HttpResponse:
        """Return the page as an answer: 501 with the remedy when the library is missing."""
        try:
            body, content_type = self.render(accept)
        except ConfigError as error:
            return text_response(str(error), 501)
        return HttpResponse(200, body, content_type)


def _metric(make: type[Metric], family: Family) -> Metric:
    name, kind = family.name, str(family.kind)
    if kind == "counter":
        name, kind = (name.removesuffix(_TOTAL), kind) if name.endswith(_TOTAL) else (name, "unknown")
    metric = make(name, family.help, kind)
    for suffix, labels, value in family.samples:
        metric.add_sample(family.name + suffix, dict(labels), value)
    return metric
