package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
)

const (
	clusterID   = 7_000_000_000_000_000_001
	memberID    = 1
	logicalBits = 18
)

type storeAddress struct {
	id              uint64
	address, status string
}

// pd answers what clients ask PD: members, timestamps, regions and stores, all but the timestamps fixed at the start.
type pd struct {
	pdpb.UnimplementedPDServer
	member  *pdpb.Member
	stores  []*metapb.Store
	regions *regions
	counter *counter

	mu     sync.Mutex
	lastTS int64 // the last timestamp given out
}

func newPD(address string, stores []storeAddress, regions *regions, counter *counter) *pd {
	url := "http://" + address
	p := &pd{
		member:  &pdpb.Member{Name: "pd", MemberId: memberID, ClientUrls: []string{url}, PeerUrls: []string{url}, BinaryVersion: "v9.0.0"},
		regions: regions,
		counter: counter,
	}
	for _, s := range stores {
		p.stores = append(p.stores, &metapb.Store{
			Id: s.id, Address: s.address, StatusAddress: s.status, PeerAddress: s.address, Version: "9.0.0",
			NodeState: metapb.NodeState_Serving, StartTimestamp: time.Now().Unix(), LastHeartbeat: time.Now().UnixNano(),
		})
	}
	return p
}

func (p *pd) header() *pdpb.ResponseHeader { return &pdpb.ResponseHeader{ClusterId: clusterID} }

func (p *pd) GetMembers(context.Context, *pdpb.GetMembersRequest) (*pdpb.GetMembersResponse, error) {
	return &pdpb.GetMembersResponse{Header: p.header(), Members: []*pdpb.Member{p.member}, Leader: p.member, EtcdLeader: p.member}, nil
}

func (p *pd) GetClusterInfo(context.Context, *pdpb.GetClusterInfoRequest) (*pdpb.GetClusterInfoResponse, error) {
	return &pdpb.GetClusterInfoResponse{Header: p.header(), ServiceModes: []pdpb.ServiceMode{pdpb.ServiceMode_PD_SVC_MODE}}, nil
}

func (p *pd) GetClusterConfig(context.Context, *pdpb.GetClusterConfigRequest) (*pdpb.GetClusterConfigResponse, error) {
	return &pdpb.GetClusterConfigResponse{Header: p.header(), Cluster: &metapb.Cluster{Id: clusterID, MaxPeerCount: 1}}, nil
}

// Tso gives blocks of timestamps; an answer holds the last of its block.
func (p *pd) Tso(stream pdpb.PD_TsoServer) error {
	send := p.counter.sends(stream.Context())
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		p.counter.add("Tso")
		last := p.allocate(int64(request.Count))
		response := &pdpb.TsoResponse{
			Header: p.header(), Count: request.Count,
			Timestamp: &pdpb.Timestamp{Physical: last >> logicalBits, Logical: last & (1<<logicalBits - 1)},
		}
		if err = send(func() error { return stream.Send(response) }); err != nil {
			return err
		}
	}
}

func (p *pd) allocate(count int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastTS = max(p.lastTS, time.Now().UnixMilli()<<logicalBits) + max(count, 1)
	return p.lastTS
}

func (p *pd) GetRegion(_ context.Context, r *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	return p.region(p.regions.metas[p.regions.index(r.RegionKey)]), nil
}

func (p *pd) GetPrevRegion(_ context.Context, r *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	if i := p.regions.index(r.RegionKey); i > 0 {
		return p.region(p.regions.metas[i-1]), nil
	}
	return &pdpb.GetRegionResponse{Header: p.header()}, nil
}

func (p *pd) GetRegionByID(_ context.Context, r *pdpb.GetRegionByIDRequest) (*pdpb.GetRegionResponse, error) {
	if meta := p.regions.byID(r.RegionId); meta != nil {
		return p.region(meta), nil
	}
	return &pdpb.GetRegionResponse{Header: p.header()}, nil
}

func (p *pd) region(meta *metapb.Region) *pdpb.GetRegionResponse {
	return &pdpb.GetRegionResponse{Header: p.header(), Region: meta, Leader: meta.Peers[0]}
}

func (p *pd) ScanRegions(_ context.Context, r *pdpb.ScanRegionsRequest) (*pdpb.ScanRegionsResponse, error) {
	response := &pdpb.ScanRegionsResponse{Header: p.header()}
	for _, meta := range p.regions.scan(r.StartKey, r.EndKey, int(r.Limit)) {
		response.RegionMetas = append(response.RegionMetas, meta)
		response.Leaders = append(response.Leaders, meta.Peers[0])
		response.Regions = append(response.Regions, &pdpb.Region{Region: meta, Leader: meta.Peers[0]})
	}
	return response, nil
}

func (p *pd) BatchScanRegions(_ context.Context, r *pdpb.BatchScanRegionsRequest) (*pdpb.BatchScanRegionsResponse, error) {
	response := &pdpb.BatchScanRegionsResponse{Header: p.header()}
	lastID := uint64(0)
	for _, span := range r.Ranges {
		for _, meta := range p.regions.scan(span.StartKey, span.EndKey, int(r.Limit)) {
			if r.Limit > 0 && len(response.Regions) == int(r.Limit) {
				return response, nil
			}
			if meta.Id > lastID {
				response.Regions = append(response.Regions, &pdpb.Region{Region: meta, Leader: meta.Peers[0]})
				lastID = meta.Id
			}
		}
	}
	return response, nil
}

func (p *pd) QueryRegion(stream pdpb.PD_QueryRegionServer) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err = stream.Send(p.query(request)); err != nil {
			return err
		}
	}
}

func (p *pd) query(request *pdpb.QueryRegionRequest) *pdpb.QueryRegionResponse {
	response := &pdpb.QueryRegionResponse{Header: p.header(), RegionsById: map[uint64]*pdpb.RegionResponse{}}
	add := func(meta *metapb.Region) uint64 {
		response.RegionsById[meta.Id] = &pdpb.RegionResponse{Region: meta, Leader: meta.Peers[0]}
		return meta.Id
	}
	for _, key := range request.Keys {
		response.KeyIdMap = append(response.KeyIdMap, add(p.regions.metas[p.regions.index(key)]))
	}
	for _, key := range request.PrevKeys {
		id := uint64(0)
		if i := p.regions.index(key); i > 0 {
			id = add(p.regions.metas[i-1])
		}
		response.PrevKeyIdMap = append(response.PrevKeyIdMap, id)
	}
	for _, id := range request.Ids {
		if meta := p.regions.byID(id); meta != nil {
			add(meta)
		}
	}
	return response
}

func (p *pd) GetStore(_ context.Context, r *pdpb.GetStoreRequest) (*pdpb.GetStoreResponse, error) {
	if r.StoreId < 1 || r.StoreId > uint64(len(p.stores)) {
		message := fmt.Sprintf("invalid store ID %d, not found", r.StoreId)
		header := &pdpb.ResponseHeader{ClusterId: clusterID, Error: &pdpb.Error{Type: pdpb.ErrorType_UNKNOWN, Message: message}}
		return &pdpb.GetStoreResponse{Header: header}, nil
	}
	return &pdpb.GetStoreResponse{Header: p.header(), Store: p.stores[r.StoreId-1], Stats: &pdpb.StoreStats{}}, nil
}

func (p *pd) GetAllStores(context.Context, *pdpb.GetAllStoresRequest) (*pdpb.GetAllStoresResponse, error) {
	return &pdpb.GetAllStoresResponse{Header: p.header(), Stores: p.stores}, nil
}

func (p *pd) IsBootstrapped(context.Context, *pdpb.IsBootstrappedRequest) (*pdpb.IsBootstrappedResponse, error) {
	return &pdpb.IsBootstrappedResponse{Header: p.header(), Bootstrapped: true}, nil
}

func (p *pd) GetGCSafePoint(context.Context, *pdpb.GetGCSafePointRequest) (*pdpb.GetGCSafePointResponse, error) {
	return &pdpb.GetGCSafePointResponse{Header: p.header()}, nil
}
