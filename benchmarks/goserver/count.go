package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"reflect"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// counter counts requests by the name of their RPC, whichever way they came, and delays their answers where it is told to.
//
// With a delay the seconds that a client's call takes tell how many round trips it makes, one after the other: what it sends
// at once waits at once. Without one nothing is delayed, and counting costs some 30 ns.
type counter struct {
	delay time.Duration

	mu     sync.Mutex
	counts map[string]int
	names  map[reflect.Type]string // of commands in a batch
}

func newCounter(delay time.Duration) *counter {
	return &counter{delay: delay, counts: map[string]int{}, names: map[reflect.Type]string{}}
}

func (c *counter) add(name string) {
	c.mu.Lock()
	c.counts[name]++
	c.mu.Unlock()
}

// addBatch counts a BatchCommands message and the commands in it, which get the names of their unary twins.
func (c *counter) addBatch(requests []*batchRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts["BatchCommands"]++
	for _, request := range requests {
		kind := reflect.TypeOf(request.Cmd)
		name, known := c.names[kind]
		if !known {
			name = strings.TrimPrefix(kind.String(), "*tikvpb.BatchCommandsRequest_Request_")
			if name != "Empty" && !strings.HasPrefix(name, "Raw") {
				name = "Kv" + name
			}
			c.names[kind] = name
		}
		c.counts[name]++
	}
}

// take answers the counts since the last time.
func (c *counter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.counts
	c.counts = map[string]int{}
	return taken
}

// unary is the interceptor of all unary calls.
func (c *counter) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c.add(strings.Replace(path.Base(info.FullMethod), "KVPess", "KvPess", 1))
	time.Sleep(c.delay)
	return handler(ctx, request)
}

// sends gives back what hands the answers of a stream to it: at once, or in the same order each after the delay, while the
// stream is read on. An error of a delayed send shows at the stream's next read.
func (c *counter) sends(ctx context.Context) func(send func() error) error {
	if c.delay == 0 {
		return func(send func() error) error { return send() }
	}
	type waiting struct {
		due  time.Time
		send func() error
	}
	queue := make(chan waiting, 1024)
	go func() {
		for {
			select {
			case next := <-queue:
				time.Sleep(time.Until(next.due))
				_ = next.send()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(send func() error) error {
		queue <- waiting{time.Now().Add(c.delay), send}
		return nil
	}
}

// report answers each line of standard input with a line of JSON, the counts since the last one, and ends the process when
// the input ends.
func (c *counter) report() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		line, _ := json.Marshal(c.take())
		fmt.Println(string(line))
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
