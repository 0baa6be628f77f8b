package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tikv/client-go/v2/config"
	tikverr "github.com/tikv/client-go/v2/error"
	"github.com/tikv/client-go/v2/kv"
	"github.com/tikv/client-go/v2/txnkv"
	"github.com/tikv/client-go/v2/txnkv/transaction"
	"github.com/tikv/client-go/v2/util"
)

// Transactions: with -txn these checks run instead of the raw ones. locks.go has those about locks of dead clients.

type txnCheck struct {
	name string
	run  func(context.Context, *txnkv.Client) error
}

func runTxn(ctx context.Context) bool {
	config.UpdateGlobal(func(c *config.Config) { c.TiKVClient.GrpcConnectionCount = 2 })
	client, err := txnkv.NewClient([]string{*pdAddress})
	if !report("connect", err) {
		return false
	}
	// client-go commits asynchronously or in one phase only for a session.
	ctx = util.SetSessionID(ctx, 1)
	passed := true
	for _, c := range txnChecks() {
		passed = report(c.name, c.run(ctx, client)) && passed
	}
	return passed
}

func txnChecks() []txnCheck {
	return []txnCheck{
		{"read what pytikv wrote", txnReadOurs},
		{"optimistic", optimistic},
		{"conflict", conflict},
		{"insert", insert},
		{"async commit, 1PC and 2PC", commitModes},
		{"binary keys and large values", txnBinary},
		{"many keys over regions", manyKeys},
		{"scans", txnScans},
		{"snapshots", snapshots},
		{"pessimistic", pessimistic},
		{"waiting for a lock", waitForLock},
		{"deadlock", deadlock},
		{"fair locking", fairLocking},
		{"many at once", transfers},
		{"split regions", splitRegions},
		{"meet a dead client's prewrite", meet("prewrite", "before")},
		{"meet a dead client's half commit", meet("committed", "after")},
		{"meet a dead client's async commit", meet("async", "after")},
		{"meet a dead client's pessimistic locks", meetPessimistic},
		{"GC", collect},
		{"write for pytikv", txnWriteTheirs},
		{"leave locks for pytikv", leaveLocks},
	}
}

type setting func(*transaction.KVTxn)

func pessimisticTxn(txn *transaction.KVTxn) { txn.SetPessimistic(true) }
func asyncCommit(txn *transaction.KVTxn)    { txn.SetEnableAsyncCommit(true) }
func onePhase(txn *transaction.KVTxn)       { txn.SetEnable1PC(true) }
func causal(txn *transaction.KVTxn)         { txn.SetCausalConsistency(true) }

// write commits pairs (key, value, key, value ...; an empty value deletes) in one transaction.
func write(ctx context.Context, client *txnkv.Client, settings []setting, pairs ...[]byte) error {
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	for _, set := range settings {
		set(txn)
	}
	for i := 0; i < len(pairs); i += 2 {
		if len(pairs[i+1]) == 0 {
			err = txn.Delete(pairs[i])
		} else {
			err = txn.Set(pairs[i], pairs[i+1])
		}
		if err != nil {
			return err
		}
	}
	return txn.Commit(ctx)
}

// expect reads keys by a new transaction; a nil value stands for an absent key.
func expect(ctx context.Context, client *txnkv.Client, what string, pairs ...[]byte) error {
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = txn.Rollback() }()
	for i := 0; i < len(pairs); i += 2 {
		value, getErr := txn.Get(ctx, pairs[i])
		if tikverr.IsErrNotFound(getErr) {
			value, getErr = nil, nil
		}
		err = errors.Join(err, getErr, same(fmt.Sprintf("%s, %q", what, pairs[i]), value, pairs[i+1]))
	}
	return err
}

func text(format string, arguments ...any) []byte { return fmt.Appendf(nil, format, arguments...) }

func txnReadOurs(ctx context.Context, client *txnkv.Client) error {
	var keys, pairs [][]byte
	for i := 0; i < shared; i++ {
		keys = append(keys, key("pytikv_%04d", i))
		pairs = append(pairs, keys[i], text("value %d", i))
	}
	err := expect(ctx, client, "get", pairs...)
	txn, beginErr := client.Begin()
	if err = errors.Join(err, beginErr); err != nil {
		return err
	}
	values, err := txn.BatchGet(ctx, keys)
	for i, k := range keys {
		err = errors.Join(err, same("batch get", values[string(k)], pairs[2*i+1]))
	}
	got, scanErr := scanned(txn, key("pytikv_"), key("pytikv_~"))
	if len(got) != 2*shared {
		err = errors.Join(err, fmt.Errorf("scan: %d pairs", len(got)/2))
	} else {
		err = errors.Join(err, same("scan", bytes.Join(got, nil), bytes.Join(pairs, nil)))
	}
	return errors.Join(err, scanErr)
}

func scanned(txn *transaction.KVTxn, start, end []byte) ([][]byte, error) {
	var pairs [][]byte
	it, err := txn.Iter(start, end)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ; err == nil && it.Valid(); err = it.Next() {
		pairs = append(pairs, bytes.Clone(it.Key()), bytes.Clone(it.Value()))
	}
	return pairs, err
}

func optimistic(ctx context.Context, client *txnkv.Client) error {
	k, other := key("point"), key("point_other")
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	err = errors.Join(txn.Set(k, []byte("one")), txn.Set(other, []byte("x")), txn.Delete(other))
	own, getErr := txn.Get(ctx, k)
	err = errors.Join(err, getErr, same("own write", own, []byte("one")), txn.Commit(ctx))
	err = errors.Join(err, expect(ctx, client, "committed", k, []byte("one"), other, nil))
	err = errors.Join(err, write(ctx, client, nil, k, []byte("two")), expect(ctx, client, "written again", k, []byte("two")))
	if txn, beginErr := client.Begin(); beginErr == nil {
		err = errors.Join(err, txn.Set(k, []byte("three")), txn.Rollback())
	}
	err = errors.Join(err, expect(ctx, client, "rolled back", k, []byte("two")), write(ctx, client, nil, k, nil))
	return errors.Join(err, expect(ctx, client, "deleted", k, nil))
}

func conflict(ctx context.Context, client *txnkv.Client) error {
	k := key("conflict")
	first, err := client.Begin()
	if err != nil {
		return err
	}
	if err = errors.Join(first.Set(k, []byte("first")), write(ctx, client, nil, k, []byte("second"))); err != nil {
		return err
	}
	if err = first.Commit(ctx); !tikverr.IsErrWriteConflict(err) {
		return fmt.Errorf("not a write conflict: %v", err)
	}
	return expect(ctx, client, "after the conflict", k, []byte("second"))
}

func insert(ctx context.Context, client *txnkv.Client) error {
	k := key("insert")
	do := func() error {
		txn, err := client.Begin()
		if err != nil {
			return err
		}
		if err = txn.GetMemBuffer().SetWithFlags(k, []byte("i"), kv.SetPresumeKeyNotExists); err != nil {
			return err
		}
		return txn.Commit(ctx)
	}
	if err := do(); err != nil {
		return err
	}
	if err := do(); !tikverr.IsErrKeyExist(err) {
		return fmt.Errorf("no KeyExist: %v", err)
	}
	return nil
}

// commitModes asks for each way to commit and lets client-go tell which one it was.
func commitModes(ctx context.Context, client *txnkv.Client) error {
	cases := []struct {
		mode     string
		settings []setting
		keys     [][]byte
	}{
		{"2pc", nil, [][]byte{key("mode_a"), key("mode_b")}},
		{"1pc", []setting{onePhase}, [][]byte{key("mode_1")}},
		{"1pc", []setting{onePhase, asyncCommit, causal}, [][]byte{key("mode_2"), key("mode_3")}},
		{"async_commit", []setting{asyncCommit}, [][]byte{key("mode_4")}},
		{"async_commit", []setting{asyncCommit, onePhase}, [][]byte{key("batch_0000"), key("scan_00"), key("theirs_0040")}},
		{"async_commit", []setting{asyncCommit, causal, pessimisticTxn}, [][]byte{key("mode_5"), key("mode_6")}},
	}
	for i, c := range cases {
		var info transaction.TxnInfo
		told := func(txn *transaction.KVTxn) {
			txn.SetCommitCallback(func(text string, _ error) { _ = json.Unmarshal([]byte(text), &info) })
		}
		var pairs [][]byte
		for _, k := range c.keys {
			pairs = append(pairs, k, text("mode %d", i))
		}
		err := write(ctx, client, append([]setting{told}, c.settings...), pairs...)
		if info.TxnCommitMode != c.mode || info.AsyncCommitFallback {
			err = errors.Join(err, fmt.Errorf("case %d: %+v instead of %s", i, info, c.mode))
		}
		if err = errors.Join(err, expect(ctx, client, c.mode, pairs...)); err != nil {
			return err
		}
	}
	return nil
}

func txnBinary(ctx context.Context, client *txnkv.Client) error {
	var pairs [][]byte
	for _, tail := range []string{"\x00", "\xff", "\x00\xff\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff", "é\n\""} {
		pairs = append(pairs, append(key("binary"), tail...), append([]byte(tail), 0, 0xff))
	}
	pairs = append(pairs, key("large"), bytes.Repeat([]byte{0xa5, 0}, 1<<20))
	return errors.Join(write(ctx, client, nil, pairs...), expect(ctx, client, "binary", pairs...))
}

func manyKeys(ctx context.Context, client *txnkv.Client) error {
	var pairs [][]byte
	for i := 0; i < batch; i++ {
		pairs = append(pairs, key("batch_%04d", i), text("b%d", i))
	}
	err := errors.Join(write(ctx, client, nil, pairs...), expect(ctx, client, "many", pairs...))
	var removed [][]byte
	for i := 0; i < batch; i += 2 {
		removed = append(removed, key("batch_%04d", i), nil)
	}
	if err = errors.Join(err, write(ctx, client, []setting{asyncCommit}, removed...)); err != nil {
		return err
	}
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	left, err := scanned(txn, key("batch_"), key("batch_~"))
	if len(left) != batch {
		err = errors.Join(err, fmt.Errorf("%d keys left instead of %d", len(left)/2, batch/2))
	}
	return err
}

func txnScans(ctx context.Context, client *txnkv.Client) error {
	var pairs [][]byte
	for i := 0; i < 20; i++ {
		pairs = append(pairs, key("scan_%02d", i), text("s%d", i))
	}
	txn, err := client.Begin()
	if err = errors.Join(err, write(ctx, client, nil, pairs...)); err != nil {
		return err
	}
	before, err := scanned(txn, key("scan_"), key("scan_~"))
	if len(before) > 2 { // commitModes wrote one
		err = errors.Join(err, fmt.Errorf("an older transaction sees %d pairs", len(before)/2))
	}
	txn, beginErr := client.Begin()
	if err = errors.Join(err, beginErr); err != nil {
		return err
	}
	// The transaction's own writes are seen among those of the store.
	err = errors.Join(txn.Set(key("scan_055"), []byte("own")), txn.Delete(key("scan_07")))
	got, scanErr := scanned(txn, key("scan_05"), key("scan_10"))
	want := [][]byte{pairs[10], pairs[11], key("scan_055"), []byte("own"), pairs[12], pairs[13], pairs[16], pairs[17], pairs[18], pairs[19]}
	err = errors.Join(err, scanErr, same("scan", bytes.Join(got, []byte(",")), bytes.Join(want, []byte(","))))
	it, reverseErr := txn.IterReverse(key("scan_10"))
	if err = errors.Join(err, reverseErr); err != nil {
		return err
	}
	var backwards [][]byte
	for ; it.Valid() && bytes.Compare(it.Key(), key("scan_05")) >= 0; reverseErr = it.Next() {
		backwards = append(backwards, bytes.Clone(it.Key()))
		if reverseErr != nil {
			break
		}
	}
	want = [][]byte{pairs[18], pairs[16], pairs[12], key("scan_055"), pairs[10]}
	return errors.Join(reverseErr, same("reverse scan", bytes.Join(backwards, []byte(",")), bytes.Join(want, []byte(","))), txn.Rollback())
}

func snapshots(ctx context.Context, client *txnkv.Client) error {
	k := key("snapshot")
	var err error
	var stamps []uint64
	for i := 0; i < 3; i++ {
		err = errors.Join(err, write(ctx, client, nil, k, text("version %d", i)))
		ts, tsErr := client.GetTimestamp(ctx)
		err, stamps = errors.Join(err, tsErr), append(stamps, ts)
	}
	for i, ts := range stamps {
		value, getErr := client.GetSnapshot(ts).Get(ctx, k)
		err = errors.Join(err, getErr, same("snapshot", value, text("version %d", i)))
	}
	return err
}

// transfers moves amounts between accounts from many goroutines, half of them pessimistically; nothing may get lost.
func transfers(ctx context.Context, client *txnkv.Client) error {
	const accounts, routines, each, start = 8, 8, 10, 100
	account := func(i int) []byte { return key("account_%d", i%accounts) }
	var pairs [][]byte
	for i := 0; i < accounts; i++ {
		pairs = append(pairs, account(i), text("%d", start))
	}
	if err := write(ctx, client, nil, pairs...); err != nil {
		return err
	}
	failures := make([]error, routines)
	var group sync.WaitGroup
	for g := 0; g < routines; g++ {
		group.Add(1)
		go func(g int) {
			defer group.Done()
			for done := 0; done < each && failures[g] == nil; {
				err := transfer(ctx, client, account(g+done), account(g*3+done+1), g%2 == 0)
				switch {
				case err == nil:
					done++
				case !isRetryable(err):
					failures[g] = err
				}
			}
		}(g)
	}
	group.Wait()
	err, total := errors.Join(failures...), 0
	txn, beginErr := client.Begin()
	if err = errors.Join(err, beginErr); err != nil {
		return err
	}
	for i := 0; i < accounts; i++ {
		value, getErr := txn.Get(ctx, account(i))
		amount, parseErr := strconv.Atoi(string(value))
		err, total = errors.Join(err, getErr, parseErr), total+amount
	}
	if total != accounts*start {
		err = errors.Join(err, fmt.Errorf("the total is %d instead of %d", total, accounts*start))
	}
	return err
}

func isRetryable(err error) bool {
	var locked *tikverr.ErrDeadlock
	var retryable *tikverr.ErrRetryable
	return tikverr.IsErrWriteConflict(err) || errors.As(err, &locked) || errors.As(err, &retryable)
}

func transfer(ctx context.Context, client *txnkv.Client, from, to []byte, isPessimistic bool) (err error) {
	if bytes.Equal(from, to) {
		return nil
	}
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && txn.Valid() {
			_ = txn.Rollback()
		}
	}()
	txn.SetEnableAsyncCommit(true)
	values := map[string][]byte{}
	if isPessimistic {
		lock, lockErr := lockKeys(ctx, client, txn, kv.LockAlwaysWait, from, to)
		if lockErr != nil {
			return lockErr
		}
		for _, k := range [][]byte{from, to} {
			values[string(k)] = lock.Values[string(k)].Value
		}
	} else if values, err = txn.BatchGet(ctx, [][]byte{from, to}); err != nil {
		return err
	}
	amounts := map[string]int{}
	for k, value := range values {
		if amounts[k], err = strconv.Atoi(string(value)); err != nil {
			return err
		}
	}
	err = errors.Join(txn.Set(from, text("%d", amounts[string(from)]-1)), txn.Set(to, text("%d", amounts[string(to)]+1)))
	if err != nil {
		return err
	}
	return txn.Commit(ctx)
}

func splitRegions(ctx context.Context, client *txnkv.Client) error {
	var pairs [][]byte
	for i := 0; i < 10; i++ {
		pairs = append(pairs, key("split_%d", i), text("p%d", i))
	}
	if err := write(ctx, client, nil, pairs...); err != nil {
		return err
	}
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	for i := 0; i < len(pairs); i += 2 {
		err = errors.Join(err, txn.Set(pairs[i], []byte("again")))
	}
	// Between the writes and the commit, so that the commit meets regions that it does not know.
	ids, splitErr := client.SplitRegions(ctx, [][]byte{key("split_3"), key("split_6")}, false, nil)
	if len(ids) != 2 {
		err = errors.Join(err, fmt.Errorf("%d new regions", len(ids)))
	}
	if err = errors.Join(err, splitErr, txn.Commit(ctx)); err != nil {
		return err
	}
	for i := 1; i < len(pairs); i += 2 {
		pairs[i] = []byte("again")
	}
	return expect(ctx, client, "after the split", pairs...)
}

func txnWriteTheirs(ctx context.Context, client *txnkv.Client) error {
	var pairs [][]byte
	for i := 0; i < shared; i++ {
		pairs = append(pairs, key("theirs_%04d", i), text("value %d", i))
	}
	return write(ctx, client, []setting{asyncCommit}, pairs...)
}

// collect runs client-go's GC: locks below the safe point are resolved, then PD's safe point is moved, which pytikv has
// allowed up to five minutes ago. The store removes older versions by itself.
func collect(ctx context.Context, client *txnkv.Client) error {
	k := key("gc")
	var err error
	for i := 0; i < 3; i++ {
		err = errors.Join(err, write(ctx, client, nil, k, text("version %d", i)))
	}
	ts, tsErr := client.GetTimestamp(ctx)
	if err = errors.Join(err, tsErr); err != nil {
		return err
	}
	wanted := ts - 6*uint64(time.Minute.Milliseconds())<<18
	got, err := client.GC(ctx, wanted)
	if err == nil && got < wanted {
		err = fmt.Errorf("the safe point is %d, %d was asked for", got, wanted)
	}
	return errors.Join(err, expect(ctx, client, "after GC", k, []byte("version 2")))
}
