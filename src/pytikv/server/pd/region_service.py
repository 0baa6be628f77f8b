"""The calls that look regions up: by key, the one before, by id, ranges, and many at once on a stream.

Not found is not an error: the answer has a header and nothing else. ScanRegions fills `regions` and, for old clients,
the parallel `region_metas` and `leaders`, where a missing leader is an empty peer.
Source: PD pkg/utils/grpcutil/cluster.go.
"""

from __future__ import annotations

from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.pd.edge import Edge, check_cluster, decode
from pytikv.server.pd.regions import RegionInfo
from pytikv.server.pd.server import PdServer
from pytikv.wire.server import Route, ServerStream, StreamHandler, Streaming

__all__ = ["region_routes"]


def region_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
    """Return the routes of pdpb.PD that look regions up."""

    def get_region(request: pdpb.GetRegionRequest) -> pdpb.GetRegionResponse:
        return _region_response(pd.regions.search(request.region_key))

    def get_prev_region(request: pdpb.GetRegionRequest) -> pdpb.GetRegionResponse:
        return _region_response(pd.regions.search_prev(request.region_key))

    def get_region_by_id(request: pdpb.GetRegionByIDRequest) -> pdpb.GetRegionResponse:
        return _region_response(pd.regions.get(request.region_id))

    def scan_regions(request: pdpb.ScanRegionsRequest) -> pdpb.ScanRegionsResponse:
        found = pd.regions.scan(request.start_key, request.end_key, request.limit)
        return pdpb.ScanRegionsResponse(
            region_metas=[region.meta for region in found],
            leaders=[region.leader or metapb.Peer() for region in found],
            regions=[_region(region) for region in found],
        )

    def batch_scan_regions(request: pdpb.BatchScanRegionsRequest) -> pdpb.BatchScanRegionsResponse:
        ranges = [(r.start_key, r.end_key) for r in request.ranges]
        found = pd.regions.batch_scan(ranges, request.limit, contain_all=request.contain_all_key_range)
        return pdpb.BatchScanRegionsResponse(regions=[_region(region) for region in found])

    unary = edge.unary
    return {
        b"/pdpb.PD/GetRegion": unary(pdpb.GetRegionRequest, pdpb.GetRegionResponse, get_region),
        b"/pdpb.PD/GetPrevRegion": unary(pdpb.GetRegionRequest, pdpb.GetRegionResponse, get_prev_region),
        b"/pdpb.PD/GetRegionByID": unary(pdpb.GetRegionByIDRequest, pdpb.GetRegionResponse, get_region_by_id),
        b"/pdpb.PD/ScanRegions": unary(pdpb.ScanRegionsRequest, pdpb.ScanRegionsResponse, scan_regions),
        b"/pdpb.PD/BatchScanRegions": unary(
            pdpb.BatchScanRegionsRequest, pdpb.BatchScanRegionsResponse, batch_scan_regions
        ),
        b"/pdpb.PD/QueryRegion": Streaming(lambda stream: _QueryRegionStream(pd, stream)),
    }


def _region_response(region: RegionInfo | None) -> pdpb.GetRegionResponse:
    if region is None:
        return pdpb.GetRegionResponse()
    return pdpb.GetRegionResponse(
        region=region.meta, leader=region.leader, down_peers=region.down_peers, pending_peers=region.pending_peers
    )


def _region(region: RegionInfo) -> pdpb.Region:
    return pdpb.Region(
        region=region.meta,
        leader=region.leader or metapb.Peer(),
        down_peers=region.down_peers,
        pending_peers=region.pending_peers,
    )


class _QueryRegionStream(StreamHandler):
    """Answers each message at once; both maps are in the order of the request, 0 where no region was found."""

    def __init__(self, pd: PdServer, stream: ServerStream) -> None:
        self._pd = pd
        self._stream = stream

    def on_message(self, message: bytes) -> None:
        request = decode(pdpb.QueryRegionRequest, message)
        check_cluster(self._pd, request.header)
        self._stream.send(self._answer(request).SerializeToString())

    def on_half_close(self) -> None:
        self._stream.finish()

    def _answer(self, request: pdpb.QueryRegionRequest) -> pdpb.QueryRegionResponse:
        pd = self._pd
        response = pdpb.QueryRegionResponse(header=pdpb.ResponseHeader(cluster_id=pd.cluster_id))
        if not pd.is_bootstrapped:
            response.header.error.type = pdpb.NOT_BOOTSTRAPPED
            response.header.error.message = "cluster is not bootstrapped"
            return response
        by_key = [pd.regions.search(key) for key in request.keys]
        by_prev_key = [pd.regions.search_prev(key) for key in request.prev_keys]
        by_id = [pd.regions.get(region_id) for region_id in request.ids]
        response.key_id_map.extend(region.meta.id if region else 0 for region in by_key)
        response.prev_key_id_map.extend(region.meta.id if region else 0 for region in by_prev_key)
        for region in (*by_key, *by_prev_key, *by_id):
            if region is not None and region.meta.id not in response.regions_by_id:
                response.regions_by_id[region.meta.id].CopyFrom(_region_answer(region))
        return response


def _region_answer(region: RegionInfo) -> pdpb.RegionResponse:
    return pdpb.RegionResponse(
        region=region.meta, leader=region.leader, down_peers=region.down_peers, pending_peers=region.pending_peers
    )
