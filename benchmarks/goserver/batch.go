package main

import (
	"context"
	"io"

	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// BatchCommands answers each message with one message, in the goroutine that read it.
func (s *tikv) BatchCommands(stream tikvpb.Tikv_BatchCommandsServer) error {
	send := s.counter.sends(stream.Context())
	for {
		batch, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		s.counter.addBatch(batch.Requests)
		answer := &tikvpb.BatchCommandsResponse{
			Responses:  make([]*tikvpb.BatchCommandsResponse_Response, len(batch.Requests)),
			RequestIds: batch.RequestIds,
		}
		for i, request := range batch.Requests {
			if answer.Responses[i], err = s.answer(stream.Context(), request); err != nil {
				return err
			}
		}
		if err = send(func() error { return stream.Send(answer) }); err != nil {
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
	case *tikvpb.BatchCommandsRequest_Request_Get:
		r, err := s.KvGet(ctx, c.Get)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_Get{Get: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_Scan:
		r, err := s.KvScan(ctx, c.Scan)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_Scan{Scan: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_Prewrite:
		r, err := s.KvPrewrite(ctx, c.Prewrite)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_Prewrite{Prewrite: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_Commit:
		r, err := s.KvCommit(ctx, c.Commit)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_Commit{Commit: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_Cleanup:
		r, err := s.KvCleanup(ctx, c.Cleanup)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_Cleanup{Cleanup: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_BatchGet:
		r, err := s.KvBatchGet(ctx, c.BatchGet)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_BatchGet{BatchGet: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_BatchRollback:
		r, err := s.KvBatchRollback(ctx, c.BatchRollback)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_BatchRollback{BatchRollback: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_ScanLock:
		r, err := s.KvScanLock(ctx, c.ScanLock)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_ScanLock{ScanLock: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_ResolveLock:
		r, err := s.KvResolveLock(ctx, c.ResolveLock)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_ResolveLock{ResolveLock: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_PessimisticLock:
		r, err := s.KvPessimisticLock(ctx, c.PessimisticLock)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_PessimisticLock{PessimisticLock: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_PessimisticRollback:
		r, err := s.KVPessimisticRollback(ctx, c.PessimisticRollback)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_PessimisticRollback{PessimisticRollback: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_CheckTxnStatus:
		r, err := s.KvCheckTxnStatus(ctx, c.CheckTxnStatus)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_CheckTxnStatus{CheckTxnStatus: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_TxnHeartBeat:
		r, err := s.KvTxnHeartBeat(ctx, c.TxnHeartBeat)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_TxnHeartBeat{TxnHeartBeat: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_CheckSecondaryLocks:
		r, err := s.KvCheckSecondaryLocks(ctx, c.CheckSecondaryLocks)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_CheckSecondaryLocks{CheckSecondaryLocks: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_Flush:
		r, err := s.KvFlush(ctx, c.Flush)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_Flush{Flush: r}}, err
	case *tikvpb.BatchCommandsRequest_Request_BufferBatchGet:
		r, err := s.KvBufferBatchGet(ctx, c.BufferBatchGet)
		return &batchResponse{Cmd: &tikvpb.BatchCommandsResponse_Response_BufferBatchGet{BufferBatchGet: r}}, err
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
