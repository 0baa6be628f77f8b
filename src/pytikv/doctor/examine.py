"""The examination: connect, then one check after the other, each with its share of the time.

Checks come one after the other, since they would spoil each other's measurements. None may use more than `_SHARE_S`
or what is left; what ends then, or fails, becomes a `could_not` of that check alone. The order: ways to the servers
first, what PD knows next, then the data, which costs most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from pytikv.config import ClientConfig
from pytikv.doctor import data, gather, judges
from pytikv.doctor.findings import CheckResult, Finding, Report
from pytikv.doctor.site import CannotCheck, Site, open_site
from pytikv.errors import TikvError
from pytikv.rt.interface import Runtime
from pytikv.rt.tls import load_client_tls
from pytikv.url import Target
from pytikv.wire.errors import RpcError

__all__ = ["CHECKS", "DEFAULT_TIMEOUT_S", "Check", "examine"]

DEFAULT_TIMEOUT_S: Final = 30.0
_SHARE_S: Final = 6.0
_CONNECT_SHARE: Final = 0.3


class Check(NamedTuple):
    """A check: how its evidence is gathered and judged."""

    name: str
    title: str
    gather: Callable[[Site, float], Awaitable[Any]]
    judge: Callable[[Any], list[Finding]]


CHECKS: Final[tuple[Check, ...]] = (
    Check("endpoints", "Endpoints", gather.endpoints, judges.endpoints),
    Check("tls", "TLS", gather.certificates, judges.certificates),
    Check("versions", "Versions", gather.versions, judges.versions),
    Check("clock", "Clock against the oracle", gather.clocks, judges.clocks),
    Check("latency", "Latency by store", gather.latencies, judges.latencies),
    Check("stores", "Stores", gather.stores, judges.stores),
    Check("balance", "Leaders and regions", gather.balance, judges.balance),
    Check("hotspots", "Hot regions", gather.hotspots, judges.hotspots),
    Check("process", "This process", gather.process, judges.process),
    Check("locks", "Locks", data.locks, judges.locks),
    Check("values", "Sizes of values", data.values, judges.values),
    Check("gc", "Garbage collection", gather.collection, judges.collection),
    Check("groups", "Resource groups", gather.groups, judges.groups),
)


async def examine(
    rt: Runtime,
    target: Target,
    config: ClientConfig,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_check: Callable[[str], None] = lambda title: None,
) -> Report:
    """Make all checks within `timeout_s`; `on_check` hears of each one that begins. Raises nothing of the cluster's.

    Raises ConfigError where the files for TLS cannot be used: nothing can be told of a cluster then.
    """
    if config.tls is not None:
        load_client_tls(config.tls, server_name=config.tls_server_name)
    end = rt.now() + timeout_s
    on_check("Connecting")
    connect_s = max(0.1, min(config.timeout, _CONNECT_SHARE * timeout_s))
    site = await open_site(rt, target, config.replace(timeout=connect_s))
    results = []
    try:
        for check in CHECKS:
            on_check(check.title)
            results.append(await _make(check, site, min(end, rt.now() + _SHARE_S)))
    finally:
        await site.close()
    return Report(str(target), tuple(results))


async def _make(check: Check, site: Site, deadline: float) -> CheckResult:
    rt, began = site.rt, site.rt.now()
    findings: list[Finding] = []
    could_not = ""
    if began >= deadline:
        return CheckResult(check.name, check.title, could_not="no time was left")
    try:
        findings = check.judge(await rt.with_deadline(_gather(check, site, deadline), deadline))
    except CannotCheck as error:
        could_not = str(error)
    except TimeoutError as error:
        could_not = str(error) or f"it did not end within {deadline - began:.1f} s"
    except (TikvError, RpcError, OSError, ValueError) as error:
        could_not = " ".join(str(error).split()) or type(error).__name__
    return CheckResult(check.name, check.title, tuple(findings), could_not, rt.now() - began)


async def _gather(check: Check, site: Site, deadline: float) -> Any:
    return await check.gather(site, deadline)
