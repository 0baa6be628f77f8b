// Command goserver is the neutral server of pytikv's benchmarks: PD and N stores in one light process.
//
// It answers the calls that a client of TiKV makes, from one sorted map in memory, so that what a benchmark measures is the
// client. It is no store: nothing is replicated or written to disk, epochs are not checked, and the steps of a transaction have
// fixed answers, as if nobody else were there (txn.go). Requests are answered in the goroutine that read them, messages are
// coded by kvproto's generated code, and the windows are large and fixed, which keeps grpc-go from probing the connection's
// bandwidth with PINGs.
//
// When it is ready it prints one line, `ready tikv://127.0.0.1:PORT`, PD's address. SIGINT, SIGTERM and the end of standard
// input (with -until-eof) end it. With -until-eof each line of input is answered by one line of JSON: how many requests there
// were since the last one, by RPC. With -delay every answer waits, so that a call's duration tells its round trips.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	streamWindow     = 8 << 20
	connectionWindow = 64 << 20
	maxMessage       = 64 << 20
)

func main() {
	storeCount := flag.Int("stores", 1, "stores, each on a port of its own; all share one map")
	regionCount := flag.Int("regions", 1, "regions; the borders are -prefix with evenly spread numbers of 8 digits")
	prefix := flag.String("prefix", "bench_", "prefix of the region borders")
	pdAddr := flag.String("pd-addr", "127.0.0.1:0", "address of PD")
	txn := flag.Bool("txn", false, "borders as transactional clients of API version 1 see them (memcomparable)")
	delay := flag.Duration("delay", 0, "every answer waits for so long")
	untilEOF := flag.Bool("until-eof", false, "answer lines of standard input by counts of requests, end when it ends")
	flag.Parse()
	debug.SetGCPercent(400) // fewer collections: the machine is the client's
	log.SetFlags(0)
	log.SetPrefix("goserver: ")
	if *storeCount < 1 || *regionCount < 1 {
		log.Fatal("-stores and -regions must be at least 1")
	}

	pdListener := listen(*pdAddr)
	table := newTable()
	var stores []storeAddress
	var storeListeners []net.Listener
	for i := 0; i < *storeCount; i++ {
		listener, status := listen("127.0.0.1:0"), listen("127.0.0.1:0")
		storeListeners = append(storeListeners, listener)
		stores = append(stores, storeAddress{id: uint64(i + 1), address: listener.Addr().String(), status: status.Addr().String()})
		go serveStatus(status)
	}
	regions := newRegions(*regionCount, *prefix, len(stores), *txn)
	counter := newCounter(*delay)

	pd := newServer(counter)
	// On PD's port too, so that its address is enough for a bare socket.
	tikvpb.RegisterTikvServer(pd, &tikv{table: table, regions: regions, counter: counter})
	pdpb.RegisterPDServer(pd, newPD(pdListener.Addr().String(), stores, regions, counter))
	grpc_health_v1.RegisterHealthServer(pd, health.NewServer())
	go func() { log.Fatal(pd.Serve(pdListener)) }()
	for _, listener := range storeListeners {
		store := newServer(counter)
		tikvpb.RegisterTikvServer(store, &tikv{table: table, regions: regions, counter: counter})
		grpc_health_v1.RegisterHealthServer(store, health.NewServer())
		go func() { log.Fatal(store.Serve(listener)) }()
	}
	fmt.Printf("ready tikv://%s\n", pdListener.Addr())

	if *untilEOF {
		go counter.report()
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
}

func listen(address string) net.Listener {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func newServer(counter *counter) *grpc.Server {
	return grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.UnaryInterceptor(counter.unary),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 1, PermitWithoutStream: true}),
	)
}

// serveStatus answers what clients ask a store's status address: the API version and whether keys may expire.
func serveStatus(listener net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("/config", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"storage": map[string]any{"api-version": 1, "enable-ttl": false}})
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"version":"9.0.0"}`)
	})
	log.Fatal(http.Serve(listener, mux))
}
