"""What evidence means: each function turns the evidence of one check into findings. Pure; limits stand at their use.

A judgement says nothing that its evidence does not show: figures are in the finding, so that a reader can disagree.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Final

from pytikv.doctor import evidence as ev
from pytikv.doctor.findings import Finding, Severity

__all__ = [
    "balance",
    "certificates",
    "clocks",
    "collection",
    "endpoints",
    "groups",
    "hotspots",
    "latencies",
    "locks",
    "process",
    "stores",
    "values",
    "versions",
]

OK, INFO, WARNING, CRITICAL = Severity.OK, Severity.INFO, Severity.WARNING, Severity.CRITICAL

_SHOWN: Final = 10
_DAY_S: Final = 86_400.0
_OLDEST_MAJOR: Final = 5


def endpoints(found: ev.Endpoints) -> list[Finding]:
    """PD must answer and have a leader; each store must answer."""
    pds = [one for one in found.endpoints if one.role == "pd"]
    stores = [one for one in found.endpoints if one.role == "store"]
    dead_pds, dead_stores = [one for one in pds if one.error], [one for one in stores if one.error]
    findings: list[Finding] = []
    if pds and len(dead_pds) == len(pds):
        advice = "is a cluster there? `pytikv serve` starts one; check the addresses in the URL, firewalls, and TLS"
        findings.append(Finding(CRITICAL, "no PD answers", _errors(dead_pds), advice))
    elif dead_pds:
        title = f"{len(dead_pds)} of {len(pds)} PD endpoints do not answer"
        findings.append(Finding(WARNING, title, _errors(dead_pds), "start them, or take them out of the URL"))
    if pds and len(dead_pds) < len(pds) and not any(one.is_leader for one in pds):
        advice = "PD elects a leader within seconds: without a majority of its members it cannot; look at PD's logs"
        findings.append(Finding(CRITICAL, "PD has no leader", (), advice))
    if found.connect_error and len(dead_pds) < len(pds):
        advice = "PD answers, so it is what the message says: often the options of the URL"
        findings.append(Finding(CRITICAL, "a client cannot connect", (found.connect_error,), advice))
    if dead_stores:
        title = f"{len(dead_stores)} of {len(stores)} stores do not answer"
        advice = "see whether the process runs and its address is reachable from here; `pytikv stores` lists them"
        findings.append(Finding(CRITICAL, title, _errors(dead_stores), advice))
    if not findings:
        slowest = max(found.endpoints, key=lambda one: one.took_s, default=None)
        shown = (f"slowest: {slowest.role} {slowest.address}, {_ms(slowest.took_s)}",) if slowest else ()
        findings.append(Finding(OK, f"{len(pds)} PD and {_many(len(stores), 'store')} answer", shown))
    return findings


def _errors(found: Sequence[ev.Endpoint]) -> tuple[str, ...]:
    return tuple(f"{one.role} {one.address}: {one.error}" for one in found)


def certificates(found: ev.Certificates) -> list[Finding]:
    """Certificates must be good for the name, and for a while yet."""
    if not found.uses_tls:
        if found.plaintext_hosts:
            hosts = ", ".join(found.plaintext_hosts[:_SHOWN])
            advice = "anybody on the way reads and changes the data: use TLS (?ca=...&cert=...&key=...)"
            return [Finding(WARNING, "the connection is not encrypted", (f"in the clear: {hosts}",), advice)]
        return [Finding(OK, "no TLS, and nothing leaves this machine")]
    findings: list[Finding] = []
    for one in found.certificates:
        left_s = one.expires_at - found.now
        shown = (f"{one.address}: {', '.join(one.names) or 'no name'}, {_span(max(0.0, left_s))} left",)
        if one.error:
            advice = "renew the certificate, or give it the name that clients use (tls_server_name names another one)"
            findings.append(Finding(CRITICAL, f"the certificate of {one.address} is refused", (one.error,), advice))
        elif left_s < 3 * _DAY_S:
            findings.append(Finding(CRITICAL, f"the certificate of {one.address} is about to expire", shown, _RENEW))
        elif left_s < 21 * _DAY_S:
            findings.append(Finding(WARNING, f"the certificate of {one.address} expires soon", shown, _RENEW))
    if not findings:
        left = min((one.expires_at - found.now for one in found.certificates), default=0.0)
        findings.append(
            Finding(OK, f"{_many(len(found.certificates), 'certificate')}, good for {_span(left)} at least")
        )
    return findings


_RENEW: Final = "renew it; servers and clients of this library take renewed files without a restart"


def versions(found: ev.Versions) -> list[Finding]:
    """Versions should be the same on all stores, and not of another age than PD's."""
    by_version = Counter(found.stores.values())
    shown = (
        f"client: pytikv {found.client}, API v{found.api_version}"
        + (f", keyspace {found.keyspace}" if found.keyspace else ""),
        f"PD: {found.pd or 'unknown'}",
        "stores: " + (", ".join(f"{number} x {version or 'unknown'}" for version, number in by_version.items())),
    )
    findings = []
    if found.adapted:
        advice = "pass what is said here as options of your clients; without them they fail at connect"
        findings.append(Finding(WARNING, "the options do not fit the cluster", (found.adapted,), advice))
    if len(by_version) > 1:
        odd = tuple(f"{address}: {version}" for address, version in sorted(found.stores.items()))
        advice = "fine during a rolling upgrade; else upgrade the rest"
        findings.append(Finding(WARNING, "stores run different versions", odd[:_SHOWN], advice))
    majors = [_major(version) for version in by_version]
    if any(major is not None and major < _OLDEST_MAJOR for major in majors):
        advice = f"TiKV before {_OLDEST_MAJOR}.0 lacks calls that this library uses: upgrade"
        findings.append(Finding(WARNING, "stores are old", shown, advice))
    pd_major = _major(found.pd)
    if pd_major is not None and any(major is not None and major != pd_major for major in majors):
        findings.append(Finding(INFO, "PD and stores are of different major versions", shown))
    return findings or [Finding(OK, "versions agree", shown)]


def _major(version: str) -> int | None:
    match = re.match(r"v?(\d+)\.", version)
    return int(match[1]) if match and "pytikv" not in version else None


def clocks(found: ev.Clocks) -> list[Finding]:
    """Compare this machine's clock with the oracle's, by the sample with the shortest round trip."""
    if not found.samples:
        return []
    best = min(found.samples, key=lambda one: one.after_ms - one.before_ms)
    round_trip_ms = best.after_ms - best.before_ms
    # The oracle's time was taken somewhere within the round trip; its physical part moves in steps of up to 50 ms.
    offset_ms = best.oracle_ms - (best.before_ms + best.after_ms) / 2
    error_ms = round_trip_ms / 2 + 50
    shown = (
        f"this machine is {abs(offset_ms):,.0f} ms {'behind' if offset_ms > 0 else 'ahead of'} the oracle,"
        f" give or take {error_ms:,.0f} ms ({len(found.samples)} samples, shortest round trip {round_trip_ms:,.1f} ms)",
    )
    advice = (
        "let NTP or chrony set the clocks here and at PD. Transactions stay correct, since they use the oracle's time;"
        " ages of locks, TTLs as people read them, and logs of several machines mislead"
    )
    if abs(offset_ms) - error_ms > 10_000:
        return [Finding(CRITICAL, "the clock is far off the oracle's", shown, advice)]
    if abs(offset_ms) - error_ms > 500:
        return [Finding(WARNING, "the clock differs from the oracle's", shown, advice)]
    return [Finding(OK, "the clock agrees with the oracle's", shown)]


def latencies(found: ev.Latencies) -> list[Finding]:
    """Compare the stores with each other, and say where the time of each goes."""
    answered = [one for one in found.stores if one.totals_s]
    findings = [
        Finding(CRITICAL, f"store {one.address} did not answer probes", (one.error,), "see the endpoints' check")
        for one in found.stores
        if not one.totals_s
    ]
    middles = {one.address: statistics.median(one.totals_s) for one in answered}
    for one in answered:
        middle, others = middles[one.address], [m for address, m in middles.items() if address != one.address]
        usual = statistics.median(others) if others else middle
        queued, server = _median(one.queued_s), _median(one.server_s)
        line = (_latency_line(one),)
        if middle > 0.005 and middle > 3 * usual:
            title = f"store {one.address} is slow: {_ms(middle)}, the others {_ms(usual)}"
            findings.append(Finding(WARNING, title, line, _slow_advice(middle, server, queued)))
        elif middle > 0.1:
            title = f"store {one.address} takes {_ms(middle)} for a read of one key"
            findings.append(Finding(WARNING, title, line, _slow_advice(middle, server, queued)))
        elif queued > 0.005 and queued > middle / 2:
            title = f"requests wait in the queues of store {one.address}"
            findings.append(Finding(WARNING, title, line, _QUEUE))
    if not findings:
        title = "stores answer alike" if len(answered) > 1 else "the store answers"
        findings.append(Finding(OK, title, tuple(_latency_line(one) for one in answered)[:_SHOWN]))
    return findings


_QUEUE: Final = "its read pool is busy: spread the load over more stores, or give it more CPU (readpool.unified)"


def _slow_advice(total_s: float, server_s: float, queued_s: float) -> str:
    if not server_s:
        return "the store does not say where the time goes: compare with a ping of its machine, and look at its disk"
    if queued_s > total_s / 2:
        return _QUEUE
    if server_s > total_s / 2:
        return "most of it is spent in the store: look at its disk and CPU"
    return "most of it is spent on the network, or waiting for a busy machine: measure the way there"


def _latency_line(one: ev.StoreLatency) -> str:
    total, server, queued = statistics.median(one.totals_s), _median(one.server_s), _median(one.queued_s)
    parts = f"{one.address}: {one.what} P50 {_ms(total)}, P99 {_ms(_percentile(one.totals_s, 99))}"
    if not server:
        return f"{parts} ({len(one.totals_s)} probes; the store does not split its time)"
    network, work = max(0.0, total - server), max(0.0, server - queued)
    return f"{parts} = network {_ms(network)} + queue {_ms(queued)} + server {_ms(work)} ({len(one.totals_s)} probes)"


def stores(found: ev.Stores) -> list[Finding]:
    """States, heartbeats, room on the disk, and PD's own score of slowness."""
    findings: list[Finding] = []
    for one in found.stores:
        name = f"store {one.store_id} at {one.address}"
        silence = (f"last heartbeat {_span(one.silent_s)} ago",) if one.silent_s >= 0 else ()
        if one.state in ("Down", "Disconnected", "Unhealthy"):
            advice = "start it again; PD makes new replicas elsewhere after max-store-down-time (30 min)"
            findings.append(Finding(CRITICAL, f"{name} is {one.state}", silence, advice))
        elif one.state not in ("Up", "Serving", "Preparing"):
            findings.append(Finding(WARNING, f"{name} is {one.state}", silence, _LEAVING))
        elif one.silent_s > 60:
            findings.append(Finding(WARNING, f"{name} is silent", silence, "it should report to PD every 10 s"))
        if one.capacity and one.available < one.capacity * 0.2:
            room = (f"{_size(one.available)} of {_size(one.capacity)} are free",)
            severity = CRITICAL if one.available < one.capacity * 0.05 else WARNING
            findings.append(Finding(severity, f"{name} runs out of disk", room, _DISK))
        if one.slow_score > 80:
            score = (f"PD's slow score: {one.slow_score:.0f} of 100",)
            findings.append(Finding(WARNING, f"{name} is slow in PD's eyes", score, "look at its disk's latency"))
    return findings or [Finding(OK, f"{_many(len(found.stores), 'store')}, all up")]


_LEAVING: Final = "it is being emptied; if that is not meant, cancel it at PD"
_DISK: Final = "add stores or delete data; TiKV refuses writes when its disk is almost full"


def balance(found: ev.Balance) -> list[Finding]:
    """Leaders and peers should be spread evenly; every region needs a leader."""
    findings: list[Finding] = []
    if found.without_leader:
        which = (f"regions {_some(found.without_leader)}",)
        title = f"{_many(len(found.without_leader), 'region')} without a leader"
        advice = "they cannot be read or written: a majority of their stores is needed; see the stores' check"
        findings.append(Finding(CRITICAL, title, which, advice))
    if found.with_down_peers:
        which = (f"regions {_some(found.with_down_peers)}",)
        title = f"{_many(len(found.with_down_peers), 'region')} with replicas that are down"
        findings.append(Finding(WARNING, title, which))
    for what, counts in (("leaders", found.leaders), ("regions", found.peers)):
        total = sum(counts.values())
        if len(counts) < 2 or total < 10 * len(counts):
            continue
        most = max(counts.values())
        shown = tuple(f"store {store_id}: {number} {what}" for store_id, number in sorted(counts.items()))
        if most > 1.5 * total / len(counts):
            advice = "see PD's schedulers (balance-leader, balance-region) and weights; evict-leader leaves this behind"
            findings.append(Finding(WARNING, f"{what} are not balanced", shown[:_SHOWN], advice))
    part = "" if found.complete else " as far as was looked"
    return findings or [Finding(OK, f"{_many(found.regions, 'region')}, spread evenly{part}")]


def hotspots(found: ev.Hotspots) -> list[Finding]:
    """One region that takes most of the traffic is the bottleneck of all."""
    findings = []
    for one in found.regions[:3]:
        is_much = one.bytes_rate > (1 << 20) or one.query_rate > 1_000
        if is_much and one.share > 0.5:
            shown = (
                f"{one.share:.0%} of the {one.kind} traffic of hot regions: {_size(one.bytes_rate)}/s,"
                f" {one.query_rate:,.0f} requests/s, on store {one.store_id}",
            )
            advice = (
                f"`pytikv regions` shows its keys; split it (client.split), spread keys that only grow over prefixes,"
                f"{' or read from replicas (replica_read)' if one.kind == 'read' else ' or write in batches'}"
            )
            findings.append(Finding(WARNING, f"region {one.region_id} is hot", shown, advice))
    return findings or [Finding(OK, f"no region stands out ({len(found.regions)} with notable traffic)")]


def locks(found: ev.Locks) -> list[Finding]:
    """Locks older than their time to live are left over; old ones that live keep others waiting."""
    by_age = sorted(found.locks, key=lambda lock: lock.start_ts)
    left_over = [lock for lock in by_age if _lock_age_s(lock, found) * 1000 > lock.ttl_ms]
    long_held = [lock for lock in by_age if lock not in left_over and _lock_age_s(lock, found) > 10]
    findings = []
    if left_over:
        title = f"{_many(len(left_over), 'lock')} outlived the transaction"
        advice = (
            "their owners died or were cut off. Readers settle them one by one as they meet them;"
            " client.resolve_locks() settles all"
        )
        findings.append(Finding(WARNING, title, _lock_lines(left_over, found), advice))
    if long_held:
        title = f"{_many(len(long_held), 'lock')} held for more than 10 s"
        advice = (
            "find the transaction by its start_ts (clients log it): keep transactions short, and do nothing slow"
            " between the first lock and the commit"
        )
        findings.append(Finding(WARNING, title, _lock_lines(long_held, found), advice))
    seen = f"{_many(found.regions, 'region')} looked at{'' if found.complete else ', not all'}"
    if findings:
        return findings
    title = f"{_many(len(by_age), 'lock')}{', none of them old' if by_age else ''}"
    return [Finding(OK, title, (*_lock_lines(by_age[:3], found), seen))]


def _lock_age_s(lock: ev.Lock, found: ev.Locks) -> float:
    return (found.now.physical_ms - lock.start_ts.physical_ms) / 1000


def _lock_lines(chosen: Sequence[ev.Lock], found: ev.Locks) -> tuple[str, ...]:
    lines = [
        f"{lock.kind} on {lock.key}, held {_span(_lock_age_s(lock, found))} by start_ts {int(lock.start_ts)}"
        f" (began {lock.start_ts.datetime:%Y-%m-%d %H:%M:%S} UTC, ttl {lock.ttl_ms:,} ms, primary {lock.primary})"
        for lock in chosen[:_SHOWN]
    ]
    return (*lines, *((f"and {len(chosen) - _SHOWN} more",) if len(chosen) > _SHOWN else ()))


def values(found: ev.Values) -> list[Finding]:
    """Values above a megabyte hold up what shares their connection, and their region's log."""
    huge = [one for one in found.largest if one.size > 6 << 20]
    large = [one for one in found.largest if one.size > 1 << 20]
    lines = tuple(f"{one.kind} {one.key}: {_size(one.size)}" for one in large[:_SHOWN])
    sample = f"{_many(found.sampled, 'value')} sampled, {_size(found.sampled_bytes)}"
    advice = "keep values below 1 MiB: cut them into parts, or store the large part elsewhere and its name here"
    if large:
        severity = CRITICAL if huge else WARNING
        return [Finding(severity, f"{_many(len(large), 'value')} larger than 1 MiB", (*lines, sample), advice)]
    largest = f", the largest {_size(found.largest[0].size)}" if found.largest else ""
    return [Finding(OK, f"no large values{largest}", (sample,))]


def collection(found: ev.Collection) -> list[Finding]:
    """Old versions must go at some time: how far behind is the GC safe point?"""
    if not found.gc_safe_point:
        advice = "nobody collects: call client.gc() regularly, or connect with gc_interval; TiDB does it by itself"
        return [Finding(INFO, "old versions were never collected", (), advice)]
    age_s = (found.now.physical_ms - found.gc_safe_point.physical_ms) / 1000
    lag_s = (found.txn_safe_point.physical_ms - found.gc_safe_point.physical_ms) / 1000
    shown = [f"the GC safe point is {_span(age_s)} old"]
    shown += [f"held back by {found.blocker}"] if found.blocker else []
    shown += [f"{_span(lag_s)} behind the transaction safe point"] if lag_s > 1 else []
    if age_s > _DAY_S:
        advice = "is whoever collects still running (client.gc, gc_interval, TiDB)? Scans pay for each old version"
        return [Finding(WARNING, "garbage collection is far behind", tuple(shown), advice)]
    if age_s > 2 * 3600:
        return [Finding(INFO, "garbage collection is behind", tuple(shown), "it usually runs every 10 minutes")]
    return [Finding(OK, "garbage is collected", tuple(shown))]


def process(found: ev.Process) -> list[Finding]:
    """Can threads of this process run when they want to, and are there connections left?"""
    late, usual = _percentile(found.delays_s, 95), _median(found.delays_s)
    shown = (
        f"a thread that wants to wake does so {_ms(usual)} late (P50), {_ms(late)} (P95);"
        f" {_many(found.threads, 'thread')}, switch interval {_ms(found.switch_interval_s)}",
    )
    findings = []
    if usual > 0.8 * found.switch_interval_s and found.threads > 1:
        advice = (
            "other threads hold the interpreter (GIL): each answer waits for a turn. Move computing into processes, or"
            " lower sys.setswitchinterval"
        )
        findings.append(Finding(WARNING, "the interpreter is contended", shown, advice))
    elif late > 0.02:
        advice = "the machine has more to do than it has CPU: see its load, and CPU limits of the container"
        findings.append(Finding(WARNING, "this process gets the CPU late", shown, advice))
    if found.connections_waiting:
        held = (f"{found.connections_open} of {found.connections_max} open, {found.connections_waiting} calls wait",)
        advice = "raise max_connections, or use fewer threads"
        findings.append(Finding(WARNING, "calls wait for connections", held, advice))
    return findings or [Finding(OK, "this process runs when it wants to", shown)]


def groups(found: ev.Groups) -> list[Finding]:
    """Does the resource group that the client names exist, and which ones are there?"""
    lines = tuple(
        f"{name}: {'unlimited' if units >= 2**31 - 1 else f'{units:,} units/s'}{', may burst' if burst else ''}"
        for name, (units, burst) in sorted(found.groups.items())
    )
    if found.wanted and found.wanted not in found.groups:
        title = f"there is no resource group {found.wanted!r}"
        return [Finding(WARNING, title, lines[:_SHOWN], "make it, or change the option resource_group")]
    return [Finding(OK, _many(len(lines), "resource group"), lines[:_SHOWN])]


# --- figures ----------------------------------------------------------------------------------------------------------


def _median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers) if numbers else 0.0


def _percentile(numbers: Sequence[float], percent: float) -> float:
    """Return the number that `percent` of the numbers do not exceed; 0 for none."""
    ranked = sorted(numbers)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))] if ranked else 0.0


def _many(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{format(number, ',') if number else 'no'} {what}s"


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.2f} ms"


def _span(seconds: float) -> str:
    for unit, size in (("days", _DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.1f} s"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def _some(ids: Sequence[int]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(map(str, ids[:_SHOWN])) + more
