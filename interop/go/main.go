// Command go runs client-go's raw client, or its transactions, against a server, as a check of the server and of data written by other clients.
//
// It prints one JSON line a check, {"check", "ok", "detail"}, and exits with 1 when one failed. interop/README.md has the
// contract that all these programs share: which keys another client wrote before, and which this one leaves behind.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc64"
	"os"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/log"
	"github.com/tikv/client-go/v2/rawkv"
	"go.uber.org/zap"
)

const (
	shared     = 50 // pairs that each side writes for the other
	batch      = 300
	goroutines = 32
	perRoutine = 25
)

var (
	pdAddress  = flag.String("pd", "127.0.0.1:2379", "address of PD")
	prefix     = flag.String("prefix", "interop_", "prefix of all keys")
	ttl        = flag.Bool("ttl", false, "the store keeps TTLs: check them")
	apiVersion = flag.Int("api-version", 1, "API version of the store: 1 or 2")
	txn        = flag.Bool("txn", false, "check transactions instead of raw calls")
	timeout    = flag.Duration("timeout", 60*time.Second, "of the whole run")
)

type check struct {
	name string
	run  func(context.Context, *rawkv.Client) error
}

func main() {
	flag.Parse()
	quiet, properties, _ := log.InitLogger(&log.Config{Level: "fatal"}, zap.AddStacktrace(zap.FatalLevel))
	log.ReplaceGlobals(quiet, properties)
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	if *txn {
		if !runTxn(ctx) {
			os.Exit(1)
		}
		return
	}
	version := kvrpcpb.APIVersion_V1
	if *apiVersion == 2 {
		version = kvrpcpb.APIVersion_V2
	} else if *ttl {
		version = kvrpcpb.APIVersion_V1TTL
	}
	client, err := rawkv.NewClientWithOpts(ctx, []string{*pdAddress}, rawkv.WithAPIVersion(version))
	if !report("connect", err) {
		os.Exit(1)
	}
	passed := true
	for _, c := range checks() {
		passed = report(c.name, c.run(ctx, client)) && passed
	}
	passed = report("close", client.Close()) && passed
	if !passed {
		os.Exit(1)
	}
}

func report(name string, err error) bool {
	line := map[string]any{"check": name, "ok": err == nil, "detail": ""}
	if err != nil {
		line["detail"] = err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(line)
	return err == nil
}

func checks() []check {
	list := []check{
		{"read what pytikv wrote", readOurs},
		{"put and get", putGet},
		{"binary keys and large values", binary},
		{"batches", batches},
		{"scans", scans},
		{"delete range", deleteRange},
		{"checksum", checksum},
		{"many at once", concurrent},
		{"compare and swap", compareAndSwap},
	}
	if *ttl {
		list = append(list, check{"TTL", keyTTL})
	}
	return append(list, check{"write for pytikv", writeTheirs})
}

func key(format string, arguments ...any) []byte {
	return []byte(*prefix + fmt.Sprintf(format, arguments...))
}

func same(what string, got, want []byte) error {
	if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		return fmt.Errorf("%s: %.60q instead of %.60q", what, got, want)
	}
	return nil
}

func readOurs(ctx context.Context, client *rawkv.Client) error {
	var keys [][]byte
	for i := 0; i < shared; i++ {
		keys = append(keys, key("pytikv_%04d", i))
		value, err := client.Get(ctx, keys[i])
		if err = errors.Join(err, same("get", value, fmt.Appendf(nil, "value %d", i))); err != nil {
			return err
		}
	}
	values, err := client.BatchGet(ctx, keys)
	if err != nil {
		return err
	}
	scanned, scannedValues, err := client.Scan(ctx, key("pytikv_"), key("pytikv_~"), 2*shared)
	if err != nil || len(scanned) != shared {
		return errors.Join(err, fmt.Errorf("scan: %d keys", len(scanned)))
	}
	for i := range keys {
		want := fmt.Appendf(nil, "value %d", i)
		err = errors.Join(err, same("batch get", values[i], want), same("scan", scanned[i], keys[i]), same("scan", scannedValues[i], want))
	}
	return err
}

func putGet(ctx context.Context, client *rawkv.Client) error {
	k := key("point")
	for _, value := range [][]byte{[]byte("one"), []byte("two")} {
		err := client.Put(ctx, k, value)
		got, getErr := client.Get(ctx, k)
		if err = errors.Join(err, getErr, same("get", got, value)); err != nil {
			return err
		}
	}
	err := client.Delete(ctx, k)
	got, getErr := client.Get(ctx, k)
	return errors.Join(err, getErr, same("get after delete", got, nil), client.Delete(ctx, k))
}

func binary(ctx context.Context, client *rawkv.Client) error {
	for _, tail := range []string{"\x00", "\xff", "\x00\xff\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff", "é\n\""} {
		k, value := append(key("binary"), tail...), append([]byte(tail), 0, 0xff)
		err := client.Put(ctx, k, value)
		got, getErr := client.Get(ctx, k)
		if err = errors.Join(err, getErr, same("binary", got, value)); err != nil {
			return err
		}
	}
	large := bytes.Repeat([]byte{0xa5, 0}, 1<<20)
	err := client.Put(ctx, key("large"), large)
	got, getErr := client.Get(ctx, key("large"))
	return errors.Join(err, getErr, same("large", got, large), client.Delete(ctx, key("large")))
}

func batches(ctx context.Context, client *rawkv.Client) error {
	var keys, values [][]byte
	for i := 0; i < batch; i++ {
		keys, values = append(keys, key("batch_%04d", i)), append(values, fmt.Appendf(nil, "b%d", i))
	}
	if err := client.BatchPut(ctx, keys, values); err != nil {
		return err
	}
	got, err := client.BatchGet(ctx, append(keys[:batch:batch], key("absent")))
	if err != nil {
		return err
	}
	for i := range keys {
		err = errors.Join(err, same("batch get", got[i], values[i]))
	}
	if len(got) != batch+1 || len(got[batch]) != 0 {
		err = errors.Join(err, errors.New("an absent key has a value"))
	}
	if err = errors.Join(err, client.BatchDelete(ctx, keys[:batch/2])); err != nil {
		return err
	}
	left, _, err := client.Scan(ctx, key("batch_"), key("batch_~"), 2*batch)
	if len(left) != batch-batch/2 {
		err = errors.Join(err, fmt.Errorf("%d keys left after the batch delete", len(left)))
	}
	return err
}

func scans(ctx context.Context, client *rawkv.Client) error {
	const count = 20
	for i := 0; i < count; i++ {
		if err := client.Put(ctx, key("scan_%02d", i), fmt.Appendf(nil, "s%d", i)); err != nil {
			return err
		}
	}
	keys, values, err := client.Scan(ctx, key("scan_05"), key("scan_10"), 100)
	if err != nil || len(keys) != 5 {
		return errors.Join(err, fmt.Errorf("scan: %d keys", len(keys)))
	}
	err = errors.Join(same("first", keys[0], key("scan_05")), same("last", keys[4], key("scan_09")), same("value", values[4], []byte("s9")))
	keys, _, scanErr := client.Scan(ctx, key("scan_"), nil, 3)
	if len(keys) != 3 {
		scanErr = errors.Join(scanErr, fmt.Errorf("limited scan: %d keys", len(keys)))
	}
	err = errors.Join(err, scanErr)
	keys, values, scanErr = client.ReverseScan(ctx, key("scan_10"), key("scan_05"), 100)
	if scanErr != nil || len(keys) != 5 {
		return errors.Join(err, scanErr, fmt.Errorf("reverse scan: %d keys", len(keys)))
	}
	err = errors.Join(err, same("reverse, first", keys[0], key("scan_09")), same("reverse, last", keys[4], key("scan_05")))
	_, values, scanErr = client.Scan(ctx, key("scan_05"), key("scan_10"), 100, rawkv.ScanKeyOnly())
	for _, value := range values {
		scanErr = errors.Join(scanErr, same("keys only", append([]byte{}, value...), []byte{}))
	}
	return errors.Join(err, scanErr)
}

func deleteRange(ctx context.Context, client *rawkv.Client) error {
	for i := 0; i < 10; i++ {
		if err := client.Put(ctx, key("range_%d", i), []byte("r")); err != nil {
			return err
		}
	}
	if err := client.DeleteRange(ctx, key("range_3"), key("range_7")); err != nil {
		return err
	}
	keys, _, err := client.Scan(ctx, key("range_"), key("range_~"), 100)
	if len(keys) != 6 {
		err = errors.Join(err, fmt.Errorf("%d keys left", len(keys)))
	}
	return err
}

func checksum(ctx context.Context, client *rawkv.Client) error {
	table, want := crc64.MakeTable(crc64.ECMA), rawkv.RawChecksum{}
	for i := 0; i < 10; i++ {
		k, value := key("sum_%d", i), fmt.Appendf(nil, "c%d", i)
		if err := client.Put(ctx, k, value); err != nil {
			return err
		}
		want.Crc64Xor ^= crc64.Update(crc64.Checksum(k, table), table, value)
		want.TotalKvs++
		want.TotalBytes += uint64(len(k) + len(value))
	}
	got, err := client.Checksum(ctx, key("sum_"), key("sum_~"))
	// In API version 2 the prefix that the store adds to each key goes into the sum.
	if *apiVersion == 2 {
		got.Crc64Xor, got.TotalBytes = want.Crc64Xor, want.TotalBytes
	}
	if err == nil && got != want {
		err = fmt.Errorf("%+v instead of %+v", got, want)
	}
	return err
}

func concurrent(ctx context.Context, client *rawkv.Client) error {
	failures := make([]error, goroutines)
	var group sync.WaitGroup
	for g := 0; g < goroutines; g++ {
		group.Add(1)
		go func(g int) {
			defer group.Done()
			for i := 0; i < perRoutine && failures[g] == nil; i++ {
				k, value := key("many_%02d_%02d", g, i), fmt.Appendf(nil, "%d.%d", g, i)
				err := client.Put(ctx, k, value)
				got, getErr := client.Get(ctx, k)
				failures[g] = errors.Join(err, getErr, same("get", got, value))
			}
		}(g)
	}
	group.Wait()
	return errors.Join(failures...)
}

func compareAndSwap(ctx context.Context, client *rawkv.Client) error {
	client.SetAtomicForCAS(true)
	defer client.SetAtomicForCAS(false)
	k := key("cas")
	steps := []struct {
		expected, value, previous []byte
		swapped                   bool
	}{
		{nil, []byte("1"), nil, true},
		{nil, []byte("x"), []byte("1"), false},
		{[]byte("0"), []byte("x"), []byte("1"), false},
		{[]byte("1"), []byte("2"), []byte("1"), true},
	}
	if err := client.Delete(ctx, k); err != nil {
		return err
	}
	for i, step := range steps {
		previous, swapped, err := client.CompareAndSwap(ctx, k, step.expected, step.value)
		if err == nil && swapped != step.swapped {
			err = fmt.Errorf("step %d: swapped %v", i, swapped)
		}
		if err = errors.Join(err, same("previous", previous, step.previous)); err != nil {
			return err
		}
	}
	got, err := client.Get(ctx, k)
	return errors.Join(err, same("at the end", got, []byte("2")))
}

func keyTTL(ctx context.Context, client *rawkv.Client) error {
	if err := client.PutWithTTL(ctx, key("ttl"), []byte("t"), 100); err != nil {
		return err
	}
	left, err := client.GetKeyTTL(ctx, key("ttl"))
	if err != nil || left == nil || *left < 90 || *left > 100 {
		return errors.Join(err, fmt.Errorf("TTL left: %v", left))
	}
	if err = client.PutWithTTL(ctx, key("ttl_short"), []byte("t"), 1); err != nil {
		return err
	}
	for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(100 * time.Millisecond) {
		got, err := client.Get(ctx, key("ttl_short"))
		if err != nil {
			return err
		}
		if got == nil {
			return nil
		}
	}
	return errors.New("a key with a TTL of 1 s is still there after 5 s")
}

func writeTheirs(ctx context.Context, client *rawkv.Client) error {
	for i := 0; i < shared; i++ {
		if err := client.Put(ctx, key("theirs_%04d", i), fmt.Appendf(nil, "value %d", i)); err != nil {
			return err
		}
	}
	return nil
}
