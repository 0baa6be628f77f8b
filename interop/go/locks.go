package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	tikverr "github.com/tikv/client-go/v2/error"
	"github.com/tikv/client-go/v2/kv"
	"github.com/tikv/client-go/v2/txnkv"
	"github.com/tikv/client-go/v2/txnkv/transaction"
)

// What transactions do with each other's locks, and with those of clients that died half way (`dead_...` keys are left by
// pytikv, `left_...` keys by this program).

const (
	left     = 10 // keys of each transaction that stops half way, over two regions
	leftMS   = 300
	patience = 20 * time.Second
)

func lockKeys(ctx context.Context, client *txnkv.Client, txn *transaction.KVTxn, waitMS int64, keys ...[]byte) (*kv.LockCtx, error) {
	txn.SetPessimistic(true)
	ts, err := client.GetTimestamp(ctx)
	if err != nil {
		return nil, err
	}
	lock := kv.NewLockCtx(ts, waitMS, time.Now())
	lock.InitReturnValues(len(keys))
	err = txn.LockKeys(ctx, lock, keys...)
	if tikverr.IsErrWriteConflict(err) {
		// Who has waited for a lock is woken by this, and asks again with a newer for_update_ts.
		return lockKeys(ctx, client, txn, waitMS, keys...)
	}
	return lock, err
}

func pessimistic(ctx context.Context, client *txnkv.Client) error {
	k, other := key("locked"), key("scan_locked")
	if err := write(ctx, client, nil, k, []byte("old"), other, nil); err != nil {
		return err
	}
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	lock, err := lockKeys(ctx, client, txn, kv.LockAlwaysWait, k, other)
	if err != nil {
		return err
	}
	err = same("value returned with the lock", lock.Values[string(k)].Value, []byte("old"))
	err = errors.Join(err, expect(ctx, client, "readers pass the lock", k, []byte("old")))
	second, beginErr := client.Begin()
	if err = errors.Join(err, beginErr); err != nil {
		return err
	}
	if _, lockErr := lockKeys(ctx, client, second, kv.LockNoWait, k); !errors.Is(lockErr, tikverr.ErrLockAcquireFailAndNoWaitSet) {
		err = errors.Join(err, fmt.Errorf("no wait: %v", lockErr))
	}
	if _, lockErr := lockKeys(ctx, client, second, 100, k); !errors.Is(lockErr, tikverr.ErrLockWaitTimeout) {
		err = errors.Join(err, fmt.Errorf("a wait of 100 ms: %v", lockErr))
	}
	err = errors.Join(err, second.Rollback(), txn.Set(k, []byte("new")), txn.Commit(ctx))
	return errors.Join(err, expect(ctx, client, "after the commit", k, []byte("new"), other, nil))
}

// waitForLock: the second transaction gets the lock when the first one commits, and sees what that one wrote.
func waitForLock(ctx context.Context, client *txnkv.Client) error {
	k := key("waited")
	first, err := client.Begin()
	if err != nil {
		return err
	}
	if _, err = lockKeys(ctx, client, first, kv.LockAlwaysWait, k); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		second, err := client.Begin()
		if err != nil {
			done <- err
			return
		}
		lock, err := lockKeys(ctx, client, second, kv.LockAlwaysWait, k)
		if err == nil {
			err = errors.Join(same("value", lock.Values[string(k)].Value, []byte("first")), second.Set(k, []byte("second")), second.Commit(ctx))
		}
		done <- err
	}()
	select {
	case err = <-done:
		return fmt.Errorf("the lock was given twice: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	err = errors.Join(first.Set(k, []byte("first")), first.Commit(ctx))
	select {
	case waited := <-done:
		return errors.Join(err, waited, expect(ctx, client, "at the end", k, []byte("second")))
	case <-time.After(patience):
		return errors.Join(err, errors.New("the waiting transaction was not woken"))
	}
}

func deadlock(ctx context.Context, client *txnkv.Client) error {
	a, b := key("dead_a"), key("scan_dead_b")
	first, err := client.Begin()
	second, beginErr := client.Begin()
	if err = errors.Join(err, beginErr); err != nil {
		return err
	}
	_, err = lockKeys(ctx, client, first, kv.LockAlwaysWait, a)
	_, lockErr := lockKeys(ctx, client, second, kv.LockAlwaysWait, b)
	if err = errors.Join(err, lockErr); err != nil {
		return err
	}
	failures := make(chan error, 2)
	cross := func(txn *transaction.KVTxn, k []byte) {
		_, err := lockKeys(ctx, client, txn, kv.LockAlwaysWait, k)
		if err != nil {
			err = errors.Join(err, txn.Rollback())
		}
		failures <- err
	}
	go cross(first, b)
	go cross(second, a)
	victims := 0
	for i := 0; i < 2; i++ {
		err := <-failures
		var chain *tikverr.ErrDeadlock
		switch {
		case errors.As(err, &chain):
			victims++
			if len(chain.WaitChain) != 2 {
				return fmt.Errorf("a wait chain of %d", len(chain.WaitChain))
			}
		case err != nil:
			return err
		}
	}
	if victims != 1 {
		return fmt.Errorf("%d transactions were told of the deadlock", victims)
	}
	for _, txn := range []*transaction.KVTxn{first, second} {
		if txn.Valid() {
			_ = txn.Rollback()
		}
	}
	return nil
}

// fairLocking: a lock request may lock a key at a newer version than it asked for, and tells so.
func fairLocking(ctx context.Context, client *txnkv.Client) error {
	k := key("fair")
	txn, err := client.Begin()
	if err = errors.Join(err, write(ctx, client, nil, k, []byte("newer"))); err != nil {
		return err
	}
	txn.SetPessimistic(true)
	txn.StartAggressiveLocking()
	lock := kv.NewLockCtx(txn.StartTS(), kv.LockAlwaysWait, time.Now())
	lock.InitReturnValues(1)
	if err = txn.LockKeys(ctx, lock, k); err != nil {
		return err
	}
	if lock.MaxLockedWithConflictTS <= txn.StartTS() {
		err = fmt.Errorf("locked with conflict at %d", lock.MaxLockedWithConflictTS)
	}
	err = errors.Join(err, same("value", lock.Values[string(k)].Value, []byte("newer")))
	txn.DoneAggressiveLocking(ctx)
	return errors.Join(err, txn.Set(k, []byte("fair")), txn.Commit(ctx), expect(ctx, client, "at the end", k, []byte("fair")))
}

func keysOf(kind string) (keys [][]byte) {
	for i := 0; i < left; i++ {
		keys = append(keys, key("%s_%d", kind, i), key("~%s_%d", kind, i)) // two regions
	}
	return keys
}

// meet reads what a transaction of a dead client has left, by point, batch and scan, and writes over it.
func meet(kind, value string) func(context.Context, *txnkv.Client) error {
	return func(ctx context.Context, client *txnkv.Client) error {
		keys := keysOf("dead_" + kind)
		var pairs, over [][]byte
		for _, k := range keys {
			pairs, over = append(pairs, k, []byte(value)), append(over, k, []byte("over"))
		}
		txn, err := client.Begin()
		if err != nil {
			return err
		}
		got, err := scanned(txn, key("dead_%s_", kind), key("dead_%s_~", kind))
		if len(got) != 2*left {
			err = errors.Join(err, fmt.Errorf("scan: %d pairs", len(got)/2))
		}
		values, getErr := txn.BatchGet(ctx, keys)
		if err = errors.Join(err, getErr); len(values) != len(keys) {
			err = errors.Join(err, fmt.Errorf("batch get: %d pairs", len(values)))
		}
		err = errors.Join(err, expect(ctx, client, "get", pairs...), write(ctx, client, nil, over...))
		return errors.Join(err, expect(ctx, client, "over it", over...))
	}
}

// meetPessimistic locks one key in each region: the store lets a request wait for a second at each lock that it meets before
// client-go looks whether it has expired.
func meetPessimistic(ctx context.Context, client *txnkv.Client) error {
	keys := keysOf("dead_pessimistic")[:2]
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	if _, err = lockKeys(ctx, client, txn, patience.Milliseconds(), keys...); err != nil {
		return err
	}
	var pairs [][]byte
	for _, k := range keys {
		err, pairs = errors.Join(err, txn.Set(k, []byte("over"))), append(pairs, k, []byte("over"))
	}
	return errors.Join(err, txn.Commit(ctx), expect(ctx, client, "over it", pairs...))
}

// leaveLocks stops transactions half way: after all prewrites, after the primary's commit, after the prewrites of an async
// commit, and after locking. Nothing cleans up: the process ends.
func leaveLocks(ctx context.Context, client *txnkv.Client) error {
	return errors.Join(
		leave(ctx, client, "prewrite", false, false),
		leave(ctx, client, "committed", true, false),
		leave(ctx, client, "async", false, true),
		leavePessimistic(ctx, client),
	)
}

func leave(ctx context.Context, client *txnkv.Client, kind string, commitPrimary, isAsync bool) error {
	keys := keysOf("left_" + kind)
	var before [][]byte
	for _, k := range keys {
		before = append(before, k, []byte("before"))
	}
	if err := write(ctx, client, nil, before...); err != nil {
		return err
	}
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	for _, k := range keys {
		err = errors.Join(err, txn.Set(k, []byte("after")))
	}
	committer, newErr := transaction.TxnProbe{KVTxn: txn}.NewCommitter(1)
	if err = errors.Join(err, newErr); err != nil {
		return err
	}
	committer.SetLockTTL(leftMS)
	if isAsync {
		committer.SetUseAsyncCommit()
	}
	if err = committer.PrewriteAllMutations(ctx); err != nil || !commitPrimary {
		return err
	}
	ts, err := client.GetTimestamp(ctx)
	committer.SetCommitTS(ts)
	return errors.Join(err, committer.CommitMutations(ctx))
}

func leavePessimistic(ctx context.Context, client *txnkv.Client) error {
	atomic.StoreUint64(&transaction.ManagedLockTTL, leftMS)
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	_, err = lockKeys(ctx, client, txn, kv.LockNoWait, keysOf("left_pessimistic")...)
	return err
}
