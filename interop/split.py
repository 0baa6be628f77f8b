"""Splits regions at given keys through the store's own SplitRegion call, below any client's interface."""

from __future__ import annotations

from collections.abc import Iterable

from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2, pdpb_pb2
from pytikv.rt.caller import CallerRuntime
from pytikv.wire.channel import ChannelConfig, ClientChannel

_SECONDS = 10.0


def split(pd_address: str, keys: Iterable[bytes], *, is_memcomparable: bool) -> int:
    """Make each of `keys`, in wire form, a border; all but raw keys of API version 1 are memcomparable there.

    Answers how many regions there are then.
    """
    rt = CallerRuntime()

    async def work() -> int:
        deadline = rt.now() + _SECONDS

        async def connect(address: str) -> ClientChannel:
            host, _, port = address.rpartition(":")
            channel = ClientChannel(rt, address=address, config=ChannelConfig())
            await channel.connect(host, int(port), deadline, None)
            return channel

        pd = await connect(pd_address)

        async def ask_pd(method: str, request: object, answer: object) -> None:
            data = await pd.unary(f"/pdpb.PD/{method}", request.SerializeToString(), deadline=deadline)
            answer.ParseFromString(data)

        members = pdpb_pb2.GetMembersResponse()
        await ask_pd("GetMembers", pdpb_pb2.GetMembersRequest(), members)
        header = pdpb_pb2.RequestHeader(cluster_id=members.header.cluster_id)
        for key in keys:
            found = pdpb_pb2.GetRegionResponse()
            await ask_pd(
                "GetRegion",
                pdpb_pb2.GetRegionRequest(
                    header=header, region_key=memcomparable.encode(key) if is_memcomparable else key
                ),
                found,
            )
            store = pdpb_pb2.GetStoreResponse()
            await ask_pd("GetStore", pdpb_pb2.GetStoreRequest(header=header, store_id=found.leader.store_id), store)
            context = kvrpcpb_pb2.Context(
                region_id=found.region.id, region_epoch=found.region.region_epoch, peer=found.leader
            )
            request = kvrpcpb_pb2.SplitRegionRequest(context=context, split_keys=[key], is_raw_kv=not is_memcomparable)
            channel = await connect(store.store.address)
            data = await channel.unary("/tikvpb.Tikv/SplitRegion", request.SerializeToString(), deadline=deadline)
            answer = kvrpcpb_pb2.SplitRegionResponse.FromString(data)
            await channel.close()
            if answer.HasField("region_error"):
                raise RuntimeError(f"SplitRegion: {answer.region_error}")
        scanned = pdpb_pb2.ScanRegionsResponse()
        await ask_pd("ScanRegions", pdpb_pb2.ScanRegionsRequest(header=header, limit=10_000), scanned)
        await pd.close()
        return len(scanned.regions)

    return rt.run(work())
