package main

import (
	"context"
	"hash/crc64"
	"io"

	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const maxScanLimit = 10240

var crcTable = crc64.MakeTable(crc64.ECMA)

// tikv answers the raw calls of one store, one by one and by BatchCommands.
type tikv struct {
	tikvpb.UnimplementedTikvServer
	table   *table
	regions *regions
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
	pairs := make([]*kvrpcpb.KvPair, 0, len(r.Keys))
	for _, key := range r.Keys {
		if value, found := s.table.get(key); found {
			pairs = append(pairs, &kvrpcpb.KvPair{Key: key, Value: value})
		}
	}
	return &kvrpcpb.RawBatchGetResponse{Pairs: pairs}, nil
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
	from, to := max(string(start), string(region.StartKey)), string(end)
	if border := string(region.EndKey); border != "" && (to == "" || border < to) {
		to = border
	}
	return from, to, nil
}

// BatchCommands answers each message with one message, in the goroutine that read it.
func (s *tikv) BatchCommands(stream tikvpb.Tikv_BatchCommandsServer) error {
	for {
		batch, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		answer := &tikvpb.BatchCommandsResponse{
			Responses:  make([]*tikvpb.BatchCommandsResponse_Response, len(batch.Requests)),
			RequestIds: batch.RequestIds,
		}
		for i, request := range batch.Requests {
			if answer.Responses[i], err = s.answer(stream.Context(), request); err != nil {
				return err
			}
		}
		if err = stream.Send(answer); err != nil {
			return err
		}
	}
}

type (
	batchRequest  = tikvpb.BatchCommandsRequest_Request
	batchResponse = tikvpb.BatchCommandsResponse_Response
)

func (s *tikv) answer(ctx context.Context, request *batchRequest) (*batchResponse, error) {
	switch c := request.Cmd.(type) {
	case *tikvpb.BatchCommandsRequest_Request_RawGet:
		r, err := s.RawGet(ctx, c.RawGet)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawGet{RawGet: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawPut:
		r, err := s.RawPut(ctx, c.RawPut)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawPut{RawPut: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawDelete:
		r, err := s.RawDelete(ctx, c.RawDelete)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawDelete{RawDelete: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawBatchGet:
		r, err := s.RawBatchGet(ctx, c.RawBatchGet)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawBatchGet{RawBatchGet: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawBatchPut:
		r, err := s.RawBatchPut(ctx, c.RawBatchPut)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawBatchPut{RawBatchPut: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawBatchDelete:
		r, err := s.RawBatchDelete(ctx, c.RawBatchDelete)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawBatchDelete{RawBatchDelete: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawScan:
		r, err := s.RawScan(ctx, c.RawScan)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawScan{RawScan: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawBatchScan:
		r, err := s.RawBatchScan(ctx, c.RawBatchScan)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawBatchScan{RawBatchScan: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_RawDeleteRange:
		r, err := s.RawDeleteRange(ctx, c.RawDeleteRange)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_RawDeleteRange{RawDeleteRange: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_Empty:
		r := &tikvpb.BatchCommandsEmptyResponse{TestId: c.Empty.GetTestId()}
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_Empty{Empty: r}}, nil
	}
	return nil, status.Errorf(codes.Unimplemented, "command %T is not offered here", request.Cmd)
}
