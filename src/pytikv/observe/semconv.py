"""Names and attributes of spans, by OpenTelemetry's semantic conventions: from records and steps to plain dictionaries.

Calls follow the stable conventions for database clients (``db.*``, ``server.*``, ``error.type``; version 1.45), RPCs
those for gRPC (``rpc.system.name``, ``rpc.method``, ``rpc.response.status_code``). What TiKV alone has is named
``tikv.*``. Keys and values of data are no attributes, nor are tokens; an error's text follows `redact_keys`.

    span of a call   raw_get, or "raw_get shop" in the keyspace shop
        db.system.name=tikv  db.operation.name  db.namespace  server.address  server.port  db.operation.batch.size
        error.type  tikv.outcome  tikv.region_id(s)  tikv.store(s)  network.peer.address/port  tikv.retries
        tikv.backoff_ms  tikv.phase.NAME_ms  tikv.start_ts  tikv.commit_ts  tikv.mode  tikv.tenant_id
        tikv.request_source  tikv.resource_group
    span of an RPC   tikvpb.Tikv/KvGet
        rpc.*  server.address  server.port  tikv.region_id  tikv.server_ms  tikv.server_wait_ms

Bounds: `MAX_LISTED` regions or stores are listed; a text has at most `MAX_TEXT` characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from pytikv.observe.rpc_facts import is_store_rpc, region_of_step, server_time_of_step, service_of
from pytikv.observe.telemetry import CallRecord, Step

__all__ = ["Attributes", "call_attributes", "call_name", "step_attributes", "step_name", "target_attributes"]

MAX_LISTED: Final = 16
MAX_TEXT: Final = 256

Value = str | int | float | bool | Sequence[str] | Sequence[int]
Attributes = Mapping[str, Value]

_NOTED: Final = ("start_ts", "commit_ts", "mode")
_OF_CONTEXT: Final = ("tenant_id", "request_source", "resource_group")


@lru_cache(maxsize=256)
def target_attributes(target: str, method: str) -> dict[str, Value]:
    """Return what is known when a call begins: what is connected to, and the operation. Do not change the answer.

    `target`: as text, without secrets. The first endpoint of PD stands for the server.
    """
    scheme, _, rest = target.partition("://")
    endpoints, _, path = rest.partition("/")
    found: dict[str, Value] = {"db.system.name": "tikv", "db.operation.name": method}
    if scheme == "embedded":
        found["tikv.embedded"] = True
    elif endpoints:
        found |= _address("server", endpoints.partition(",")[0])
    if path and scheme != "embedded":
        found["db.namespace"] = path
    return found


@lru_cache(maxsize=256)
def call_name(target: str, method: str) -> str:
    """Return the name of a call's span: the operation, and the namespace where there is one."""
    namespace = target_attributes(target, method).get("db.namespace")
    return f"{method} {namespace}" if namespace else method


def call_attributes(record: CallRecord) -> dict[str, Value]:
    """Return what is known when a call has ended; `target_attributes` come on top."""
    found: dict[str, Value] = {}
    noted = record.attributes or {}
    keys = noted.get("keys")
    if isinstance(keys, int) and keys > 1:
        found["db.operation.batch.size"] = keys
    found |= {f"tikv.{name}": noted[name] for name in _NOTED if noted.get(name)}
    if record.context is not None:
        words = ((name, getattr(record.context, name, None)) for name in _OF_CONTEXT)
        found |= {f"tikv.{name}": str(word)[:MAX_TEXT] for name, word in words if word}
    if record.status != "ok":
        found["error.type"] = record.status
        outcome = getattr(record.error, "outcome", None)
        if outcome is not None:
            found["tikv.outcome"] = outcome.value
    return found | _of_steps(record.steps, noted.get("region"))


def _of_steps(steps: Sequence[Step], region: Any) -> dict[str, Value]:
    regions: dict[int, None] = {region: None} if isinstance(region, int) else {}
    stores: dict[str, None] = {}
    backoff_s, retries = 0.0, 0
    phases: dict[str, float] = {}
    for step in steps:
        if is_store_rpc(step):
            stores[step.store] = None
            regions[region_of_step(step)] = None
        elif step.kind == "backoff":
            retries += 1
            backoff_s += step.ended - step.began
        elif step.kind == "phase":
            phases[step.name] = phases.get(step.name, 0.0) + step.ended - step.began
    found: dict[str, Value] = {f"tikv.phase.{name}_ms": _ms(spent) for name, spent in phases.items()}
    if retries:
        found |= {"tikv.retries": retries, "tikv.backoff_ms": _ms(backoff_s)}
    found |= _one_or_many("tikv.region_id", [number for number in regions if number])
    places = [store for store in stores if store]
    if len(places) == 1:
        found |= _address("network.peer", places[0])
    return found | _one_or_many("tikv.store", places)


def _one_or_many(name: str, values: list[Any]) -> dict[str, Value]:
    if len(values) > 1:
        return {f"{name}s": values[:MAX_LISTED]}
    return {name: values[0]} if values else {}


def step_name(step: Step) -> str:
    """Return the name of a step's span or event, of low cardinality."""
    if step.kind == "rpc":
        return f"{service_of(step.name)}/{step.name}"
    return f"{step.kind} {step.name}" if step.name and step.name != step.kind else step.kind


def step_attributes(step: Step) -> dict[str, Value]:
    """Return the attributes of a step's span or event."""
    if step.kind == "rpc":
        return _rpc_attributes(step)
    found: dict[str, Value] = {"tikv.duration_ms": _ms(step.ended - step.began)}
    if step.status != "ok":
        found["error.type"] = step.status
    if step.store:
        found["tikv.store"] = step.store
    if isinstance(step.detail, str) and step.detail:
        found["tikv.detail"] = step.detail[:MAX_TEXT]
    elif step.kind == "tso" and isinstance(step.detail, int):
        found["tikv.tso_batch_size"] = step.detail
    return found


def _rpc_attributes(step: Step) -> dict[str, Value]:
    found: dict[str, Value] = {"rpc.system.name": "grpc", "rpc.method": step_name(step)}
    found["rpc.response.status_code"] = "OK" if step.status == "ok" else step.status
    if step.status != "ok":
        found["error.type"] = step.status
    if step.store:
        found |= _address("server", step.store)
    region = region_of_step(step)
    if region:
        found["tikv.region_id"] = region
    server = server_time_of_step(step)
    if server is not None:
        found |= {"tikv.server_ms": _ms(server.total), "tikv.server_wait_ms": _ms(server.waited + server.lock_waited)}
    return found


@lru_cache(maxsize=1024)
def _address(prefix: str, address: str) -> dict[str, Value]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return {f"{prefix}.address": address}
    return {f"{prefix}.address": host.strip("[]"), f"{prefix}.port": int(port)}


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
