package main

import (
	"context"
	"hash/crc64"

	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
)

const maxScanLimit = 10240

var crcTable = crc64.MakeTable(crc64.ECMA)

// tikv answers the calls of one store, one by one and by BatchCommands: here the raw ones, txn.go has the transactional ones.
type tikv struct {
	tikvpb.UnimplementedTikvServer
	table   *table
	regions *regions
	counter *counter
}

func (s *tikv) RawGet(_ context.Context, r *kvrpcpb.RawGetRequest) (*kvrpcpb.RawGetResponse, error) {
	value, found := s.table.get(r.Key)
	return &kvrpcpb.RawGetResponse{Value: value, NotFound: !found}, nil
}

func (s *tikv) RawPut(_ context.Context, r *kvrpcpb.RawPutRequest) (*kvrpcpb.RawPutResponse, error) {
	s.table.put(r.Key, r.Value)
	return &kvrpcpb.RawPutResponse{}, nil
}

func (s *tikv) RawDelete(_ context.Context, r *kvrpcpb.RawDeleteRequest) (*kvrpcpb.RawDeleteResponse, error) {
	s.table.delete(r.Key)
	return &kvrpcpb.RawDeleteResponse{}, nil
}

func (s *tikv) RawBatchGet(_ context.Context, r *kvrpcpb.RawBatchGetRequest) (*kvrpcpb.RawBatchGetResponse, error) {
	return &kvrpcpb.RawBatchGetResponse{Pairs: s.pairs(r.Keys)}, nil
}

func (s *tikv) pairs(keys [][]byte) []*kvrpcpb.KvPair {
	pairs := make([]*kvrpcpb.KvPair, 0, len(keys))
	for _, key := range keys {
		if value, found := s.table.get(key); found {
			pairs = append(pairs, &kvrpcpb.KvPair{Key: key, Value: value})
		}
	}
	return pairs
}

func (s *tikv) RawBatchPut(_ context.Context, r *kvrpcpb.RawBatchPutRequest) (*kvrpcpb.RawBatchPutResponse, error) {
	s.table.mu.Lock()
	for _, pair := range r.Pairs {
		s.table.putLocked(pair.Key, pair.Value)
	}
	s.table.mu.Unlock()
	return &kvrpcpb.RawBatchPutResponse{}, nil
}

func (s *tikv) RawBatchDelete(_ context.Context, r *kvrpcpb.RawBatchDeleteRequest) (*kvrpcpb.RawBatchDeleteResponse, error) {
	s.table.delete(r.Keys...)
	return &kvrpcpb.RawBatchDeleteResponse{}, nil
}

func (s *tikv) RawDeleteRange(_ context.Context, r *kvrpcpb.RawDeleteRangeRequest) (*kvrpcpb.RawDeleteRangeResponse, error) {
	start, end, regionError := s.clip(r.Context, r.StartKey, r.EndKey)
	if regionError == nil {
		s.table.deleteRange(start, end)
	}
	return &kvrpcpb.RawDeleteRangeResponse{RegionError: regionError}, nil
}

func (s *tikv) RawScan(_ context.Context, r *kvrpcpb.RawScanRequest) (*kvrpcpb.RawScanResponse, error) {
	pairs, regionError := s.scanPairs(r.Context, r.StartKey, r.EndKey, r.Limit, r.KeyOnly, r.Reverse)
	return &kvrpcpb.RawScanResponse{RegionError: regionError, Kvs: pairs}, nil
}

func (s *tikv) RawBatchScan(_ context.Context, r *kvrpcpb.RawBatchScanRequest) (*kvrpcpb.RawBatchScanResponse, error) {
	response := &kvrpcpb.RawBatchScanResponse{}
	for _, span := range r.Ranges {
		pairs, regionError := s.scanPairs(r.Context, span.StartKey, span.EndKey, r.EachLimit, r.KeyOnly, r.Reverse)
		if regionError != nil {
			return &kvrpcpb.RawBatchScanResponse{RegionError: regionError}, nil
		}
		response.Kvs = append(response.Kvs, pairs...)
	}
	return response, nil
}

func (s *tikv) RawCompareAndSwap(_ context.Context, r *kvrpcpb.RawCASRequest) (*kvrpcpb.RawCASResponse, error) {
	old, found, swapped := s.table.compareAndSwap(r.Key, r.PreviousValue, !r.PreviousNotExist, r.Value, false)
	return &kvrpcpb.RawCASResponse{Succeed: swapped, PreviousNotExist: !found, PreviousValue: old}, nil
}

func (s *tikv) RawGetKeyTTL(context.Context, *kvrpcpb.RawGetKeyTTLRequest) (*kvrpcpb.RawGetKeyTTLResponse, error) {
	return &kvrpcpb.RawGetKeyTTLResponse{Error: "keys do not expire here: enable-ttl is false"}, nil
}

func (s *tikv) RawChecksum(_ context.Context, r *kvrpcpb.RawChecksumRequest) (*kvrpcpb.RawChecksumResponse, error) {
	response := &kvrpcpb.RawChecksumResponse{}
	for _, span := range r.Ranges {
		start, end, regionError := s.clip(r.Context, span.StartKey, span.EndKey)
		if regionError != nil {
			return &kvrpcpb.RawChecksumResponse{RegionError: regionError}, nil
		}
		s.table.scan(start, end, false, func(key string, value []byte) bool {
			response.Checksum ^= crc64.Update(crc64.Checksum([]byte(key), crcTable), crcTable, value)
			response.TotalKvs++
			response.TotalBytes += uint64(len(key) + len(value))
			return true
		})
	}
	return response, nil
}

func (s *tikv) scanPairs(c *kvrpcpb.Context, from, to []byte, limit uint32, keyOnly, reverse bool) ([]*kvrpcpb.KvPair, *errorpb.Error) {
	if reverse {
		from, to = to, from
	}
	start, end, regionError := s.clip(c, from, to)
	limit = min(limit, maxScanLimit)
	if regionError != nil || limit == 0 {
		return nil, regionError
	}
	var pairs []*kvrpcpb.KvPair
	s.table.scan(start, end, reverse, func(key string, value []byte) bool {
		if keyOnly {
			value = nil
		}
		pairs = append(pairs, &kvrpcpb.KvPair{Key: []byte(key), Value: value})
		return uint32(len(pairs)) < limit
	})
	return pairs, nil
}

// clip cuts a range at the borders of the region that the request is addressed to, where a store stops silently.
func (s *tikv) clip(c *kvrpcpb.Context, start, end []byte) (string, string, *errorpb.Error) {
	region := s.regions.byID(c.GetRegionId())
	if region == nil {
		return "", "", &errorpb.Error{Message: "no such region", RegionNotFound: &errorpb.RegionNotFound{RegionId: c.GetRegionId()}}
	}
	i := region.Id - firstRegionID
	from, to := max(string(start), s.regions.borders[i]), string(end)
	if border := s.regions.borders[i+1]; border != "" && (to == "" || border < to) {
		to = border
	}
	return from, to, nil
}
