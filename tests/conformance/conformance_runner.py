"""Plays scenarios against a cluster."""

from __future__ import annotations

import asyncio
import json
import random
import string
from pathlib import Path
from typing import Protocol

from conformance_format import Notation, Tree, compare

from pytikv.codec import memcomparable
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.wire.errors import RpcError, Status

SCENARIOS = Path(__file__).parent / "scenarios"

_RETRIED = {
    "epoch_not_match",
    "not_leader",
    "region_not_found",
    "stale_command",
    "key_not_in_region",
    "max_timestamp_not_synced",
    "region_not_initialized",
    "server_is_busy",
}
_ROUTE_FIELDS = (
    "key",
    "primary_key",
    "keys",
    "mutations",
    "pairs",
    "ranges",
    "split_keys",
    "split_key",
    "start_key",
    "primary_lock",
)
_MESSAGES = {"RawCompareAndSwap": "RawCAS", "GetStoreSafeTS": "StoreSafeTS"}
_PD_RESPONSES = {"GetRegionByID": "GetRegionResponse", "GetPrevRegion": "GetRegionResponse"}
_PD_REQUESTS = {"GetPrevRegion": "GetRegionRequest"}


class Cluster(Protocol):
    """What a scenario is played against."""

    cluster_id: int

    async def store(self, rpc: str, request: bytes, *, unary: bool) -> bytes:
        """Call the store. Raises RpcError."""

    async def pd(self, path: str, request: bytes) -> bytes:
        """Call PD: a unary RPC, or Tso with one request. Raises RpcError."""

    async def sleep(self, seconds: float) -> None:
        """Let the cluster's time pass."""

    def time(self) -> float:
        """The cluster's wall clock."""


def load() -> list[tuple[str, Tree]]:
    """Return all scenarios as (area, scenario)."""
    return [
        (document["area"], scenario)
        for path in sorted(SCENARIOS.glob("*.json"))
        for document in [json.loads(path.read_text())]
        for scenario in document["scenarios"]
    ]


def rpcs(scenario: Tree) -> set[str]:
    """Return the RPCs that a scenario needs."""
    return {step["rpc"] for step in scenario["steps"] if "rpc" in step}


def new_run() -> str:
    return "r" + "".join(random.choices(string.ascii_lowercase + string.digits, k=7))


class Runner:
    """Plays the scenarios of one cluster, one after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._past = 0
        self._header = pdpb.RequestHeader(cluster_id=cluster.cluster_id)

    async def play(self, scenario: Tree) -> list[str]:
        """Return what differed; nothing if all is as it should be."""
        notation = Notation(new_run(), await (self._now() if scenario.get("clock") == "now" else self._base()))
        self._last_ts = 0
        lines: list[str] = []
        started: dict[str, tuple[int, Tree, asyncio.Task[Tree]]] = {}

        def check(number: int, step: Tree, got: Tree) -> None:
            ignore = [*scenario.get("ignore", []), *step.get("ignore", [])]
            found = compare(step.get("response", {}), got, ignore, notation)
            lines.extend(f"step {number} {step['rpc']}: {line}" for line in found)

        for number, step in enumerate(scenario["steps"], 1):
            if "sleep_ms" in step:
                await self._cluster.sleep(step["sleep_ms"] / 1000)
            if "join" in step:
                at, begun, task = started.pop(step["join"])
                check(at, begun, await task)
            elif "expect_blocks" in step:
                task = asyncio.ensure_future(self._step(notation, scenario, step))
                await asyncio.sleep(0.2)
                if task.done() is step["expect_blocks"]:
                    lines.append(f"step {number}: waiting after 200 ms: want {step['expect_blocks']}")
                started[step.get("as", f"step{number}")] = number, step, task
            elif "rpc" in step:
                check(number, step, await self._step(notation, scenario, step))
        for at, begun, task in started.values():
            check(at, begun, await task)
        return lines

    async def _base(self) -> int:
        """A base that no other scenario has: PD's time less 20 s."""
        answer = await self._tso(pdpb.TsoRequest(header=self._header, count=1))
        self._past = max(answer.timestamp.physical - 20_000, self._past + 1)
        return self._past << 18

    async def _now(self) -> int:
        """The present time as a base, above all that the store has served, and past by the time it is used."""
        answer = await self._tso(pdpb.TsoRequest(header=self._header, count=1))
        await self._cluster.sleep(0.06)
        return (answer.timestamp.physical + 1) << 18

    async def _tso(self, request: pdpb.TsoRequest) -> pdpb.TsoResponse:
        return pdpb.TsoResponse.FromString(await self._cluster.pd("/pdpb.PD/Tso", request.SerializeToString()))

    async def _step(self, notation: Notation, scenario: Tree, step: Tree) -> Tree:
        try:
            if step["rpc"] == "PD.Tso":
                return await self._tso_step(notation, step)
            if "." in step["rpc"]:
                return await self._pd_step(notation, step)
            return await self._store_step(notation, scenario, step)
        except RpcError as error:
            code = "".join(word.capitalize() for word in Status.name_of(error.status).split("_"))
            return {"grpc_error": {"code": code, "message": error.details}}

    # --- PD -----------------------------------------------------------------------------------------------------------

    async def _tso_step(self, notation: Notation, step: Tree) -> Tree:
        request = Notation(notation.run).fill(pdpb.TsoRequest(), step.get("request", {}))
        if not request.HasField("header"):
            request.header.CopyFrom(self._header)
        answer = await self._tso(request)
        last = (answer.timestamp.physical << 18) + answer.timestamp.logical
        tree: Tree = {
            "count": answer.count,
            "physical_within_10s_of_clock": abs(self._cluster.time() * 1000 - answer.timestamp.physical) < 10_000,
        }
        if self._last_ts:
            tree["whole_block_after_previous_answer"] = last - answer.count + 1 > self._last_ts
        self._last_ts = last
        return tree

    async def _pd_step(self, notation: Notation, step: Tree) -> Tree:
        service, _, name = step["rpc"].partition(".")
        module, path = (pdpb, "/pdpb.PD/") if service == "PD" else (keyspacepb, "/keyspacepb.Keyspace/")
        without_base = Notation(notation.run)  # PD's own timestamps are absolute
        request = without_base.fill(
            getattr(module, _PD_REQUESTS.get(name, name + "Request"))(), step.get("request", {})
        )
        if not request.HasField("header"):
            request.header.cluster_id = self._cluster.cluster_id
        response = getattr(module, _PD_RESPONSES.get(name, name + "Response"))
        tree = without_base.dump(response.FromString(await self._cluster.pd(path + name, request.SerializeToString())))
        if not tree.get("header", True):
            del tree["header"]
        return tree

    # --- the store ----------------------------------------------------------------------------------------------------

    async def _store_step(self, notation: Notation, scenario: Tree, step: Tree) -> Tree:
        rpc, tree = step["rpc"], step.get("request", {})
        name = _MESSAGES.get(rpc, rpc.removeprefix("Kv").removeprefix("KV"))
        is_raw = rpc.startswith("Raw") or tree.get("is_raw_kv", False)
        key = notation.bytes_of(step["route"] if "route" in step else _route(tree))
        if key and (not is_raw or scenario["api"] == "v2"):
            key = memcomparable.encode(key)
        for _ in range(30):
            request = notation.fill(getattr(kvrpcpb, name + "Request")(), tree)
            has_context = "context" in request.DESCRIPTOR.fields_by_name
            if has_context and ("context" not in step or step["context"] is not None):
                context = await self._context(key, scenario["api"])
                request.context.CopyFrom(notation.fill(context, step.get("context", {})))
            data = await self._cluster.store(rpc, request.SerializeToString(), unary=step.get("unary", False))
            answer = notation.dump(getattr(kvrpcpb, name + "Response").FromString(data))
            kinds = set(answer.get("region_error", ()))
            if step.get("keep_region_error") or not kinds & _RETRIED:
                break
            await self._cluster.sleep(0.1)
        return answer

    async def _context(self, key: bytes, api: str) -> kvrpcpb.Context:
        request = pdpb.GetRegionRequest(header=self._header, region_key=key)
        data = await self._cluster.pd("/pdpb.PD/GetRegion", request.SerializeToString())
        found = pdpb.GetRegionResponse.FromString(data)
        region: metapb.Region = found.region
        context = kvrpcpb.Context(
            region_id=region.id,
            region_epoch=region.region_epoch,
            peer=found.leader if found.leader.id else region.peers[0],
            cluster_id=self._cluster.cluster_id,
        )
        if api == "v2":
            context.api_version = kvrpcpb.V2
            context.keyspace_id = 0
        return context


def _route(tree: Tree) -> str:
    """Return the key that decides which region a request goes to."""
    for name in _ROUTE_FIELDS:
        value = tree.get(name)
        if isinstance(value, str) and value:
            return tree["end_key"] if name == "start_key" and tree.get("reverse") and tree.get("end_key") else value
        for item in value if isinstance(value, list) else ():
            key = item if isinstance(item, str) else item.get("key") or item.get("start_key")
            if key:
                return key
    return ""
