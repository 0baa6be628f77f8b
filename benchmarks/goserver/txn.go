package main

import (
	"context"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
)

// The transactional calls, with fixed answers: there are no locks, versions or conflicts here. What a prewrite puts is in the
// table at once, the same that raw calls see, and every other step of a transaction succeeds. A client cannot tell, as
// long as it is alone on its keys.

func (s *tikv) KvGet(_ context.Context, r *kvrpcpb.GetRequest) (*kvrpcpb.GetResponse, error) {
	value, found := s.table.get(r.Key)
	response := &kvrpcpb.GetResponse{Value: value, NotFound: !found}
	if found && r.NeedCommitTs {
		response.CommitTs = 1
	}
	return response, nil
}

func (s *tikv) KvBatchGet(_ context.Context, r *kvrpcpb.BatchGetRequest) (*kvrpcpb.BatchGetResponse, error) {
	return &kvrpcpb.BatchGetResponse{Pairs: s.pairs(r.Keys)}, nil
}

func (s *tikv) KvBufferBatchGet(context.Context, *kvrpcpb.BufferBatchGetRequest) (*kvrpcpb.BufferBatchGetResponse, error) {
	return &kvrpcpb.BufferBatchGetResponse{}, nil
}

func (s *tikv) KvScan(_ context.Context, r *kvrpcpb.ScanRequest) (*kvrpcpb.ScanResponse, error) {
	pairs, regionError := s.scanPairs(r.Context, r.StartKey, r.EndKey, r.Limit, r.KeyOnly, r.Reverse)
	return &kvrpcpb.ScanResponse{RegionError: regionError, Pairs: pairs}, nil
}

// KvPrewrite gives the commit timestamp that was asked for: 1PC's, else the lower bound that async commit needs.
func (s *tikv) KvPrewrite(_ context.Context, r *kvrpcpb.PrewriteRequest) (*kvrpcpb.PrewriteResponse, error) {
	s.apply(r.Mutations)
	response := &kvrpcpb.PrewriteResponse{}
	ts := max(r.StartVersion+1, r.ForUpdateTs+1, r.MinCommitTs)
	if r.TryOnePc {
		response.OnePcCommitTs = ts
	} else if r.UseAsyncCommit {
		response.MinCommitTs = ts
	}
	return response, nil
}

func (s *tikv) KvFlush(_ context.Context, r *kvrpcpb.FlushRequest) (*kvrpcpb.FlushResponse, error) {
	s.apply(r.Mutations)
	return &kvrpcpb.FlushResponse{}, nil
}

func (s *tikv) apply(mutations []*kvrpcpb.Mutation) {
	s.table.mu.Lock()
	for _, m := range mutations {
		switch m.Op {
		case kvrpcpb.Op_Put, kvrpcpb.Op_Insert:
			s.table.putLocked(m.Key, m.Value)
		case kvrpcpb.Op_Del:
			delete(s.table.values, string(m.Key))
		}
	}
	s.table.mu.Unlock()
}

func (s *tikv) KvCommit(_ context.Context, r *kvrpcpb.CommitRequest) (*kvrpcpb.CommitResponse, error) {
	return &kvrpcpb.CommitResponse{CommitVersion: r.CommitVersion}, nil
}

func (s *tikv) KvBatchRollback(context.Context, *kvrpcpb.BatchRollbackRequest) (*kvrpcpb.BatchRollbackResponse, error) {
	return &kvrpcpb.BatchRollbackResponse{}, nil
}

// KvPessimisticLock answers values where they are asked for; in force-lock mode by results, a key each.
func (s *tikv) KvPessimisticLock(_ context.Context, r *kvrpcpb.PessimisticLockRequest) (*kvrpcpb.PessimisticLockResponse, error) {
	response := &kvrpcpb.PessimisticLockResponse{}
	for _, m := range r.Mutations {
		value, found := s.table.get(m.Key)
		switch {
		case r.WakeUpMode == kvrpcpb.PessimisticLockWakeUpMode_WakeUpModeForceLock:
			response.Results = append(response.Results, lockResult(r, value, found))
		case r.ReturnValues:
			response.Values, response.NotFounds = append(response.Values, value), append(response.NotFounds, !found)
		case r.CheckExistence:
			response.NotFounds = append(response.NotFounds, !found)
		}
	}
	return response, nil
}

func lockResult(r *kvrpcpb.PessimisticLockRequest, value []byte, found bool) *kvrpcpb.PessimisticLockKeyResult {
	result := &kvrpcpb.PessimisticLockKeyResult{Type: kvrpcpb.PessimisticLockKeyResultType_LockResultNormal}
	if r.ReturnValues {
		result.Value = value
	}
	result.Existence = found && (r.ReturnValues || r.CheckExistence)
	return result
}

func (s *tikv) KVPessimisticRollback(context.Context, *kvrpcpb.PessimisticRollbackRequest) (*kvrpcpb.PessimisticRollbackResponse, error) {
	return &kvrpcpb.PessimisticRollbackResponse{}, nil
}

func (s *tikv) KvTxnHeartBeat(_ context.Context, r *kvrpcpb.TxnHeartBeatRequest) (*kvrpcpb.TxnHeartBeatResponse, error) {
	return &kvrpcpb.TxnHeartBeatResponse{LockTtl: r.AdviseLockTtl}, nil
}

// KvCheckTxnStatus says of every transaction that it was rolled back.
func (s *tikv) KvCheckTxnStatus(context.Context, *kvrpcpb.CheckTxnStatusRequest) (*kvrpcpb.CheckTxnStatusResponse, error) {
	return &kvrpcpb.CheckTxnStatusResponse{Action: kvrpcpb.Action_LockNotExistRollback}, nil
}

func (s *tikv) KvCheckSecondaryLocks(context.Context, *kvrpcpb.CheckSecondaryLocksRequest) (*kvrpcpb.CheckSecondaryLocksResponse, error) {
	return &kvrpcpb.CheckSecondaryLocksResponse{}, nil
}

func (s *tikv) KvScanLock(context.Context, *kvrpcpb.ScanLockRequest) (*kvrpcpb.ScanLockResponse, error) {
	return &kvrpcpb.ScanLockResponse{}, nil
}

func (s *tikv) KvResolveLock(context.Context, *kvrpcpb.ResolveLockRequest) (*kvrpcpb.ResolveLockResponse, error) {
	return &kvrpcpb.ResolveLockResponse{}, nil
}

func (s *tikv) KvCleanup(context.Context, *kvrpcpb.CleanupRequest) (*kvrpcpb.CleanupResponse, error) {
	return &kvrpcpb.CleanupResponse{}, nil
}
