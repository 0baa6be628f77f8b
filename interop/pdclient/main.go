// Command pdclient runs PD's own Go client of 2026 against a server's PD: discovery, timestamps, regions, stores.
//
// It prints one JSON line a check, {"check", "ok", "detail"}, and exits with 1 when one failed. A module of its own: it
// needs a newer kvproto and grpc than client-go v2.0.4 builds with.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	rmpb "github.com/pingcap/kvproto/pkg/resource_manager"
	"github.com/pingcap/log"
	pd "github.com/tikv/pd/client"
	"github.com/tikv/pd/client/clients/router"
	"github.com/tikv/pd/client/opt"
	"go.uber.org/zap"
)

const timestamps = 2000

var (
	pdAddress = flag.String("pd", "127.0.0.1:2379", "address of PD")
	useRouter = flag.Bool("router", false, "look up regions over the QueryRegion stream")
	keyspace  = flag.String("keyspace", "", "connect to this keyspace (API version 2)")
	timeout   = flag.Duration("timeout", 60*time.Second, "of the whole run")
)

func main() {
	flag.Parse()
	quiet, properties, _ := log.InitLogger(&log.Config{Level: "fatal"}, zap.AddStacktrace(zap.FatalLevel))
	log.ReplaceGlobals(quiet, properties)
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	version := pd.NewAPIContextV1()
	if *keyspace != "" {
		version = pd.NewAPIContextV2(*keyspace)
	}
	client, err := pd.NewClientWithAPIContext(ctx, version, []string{*pdAddress}, pd.SecurityOption{}, opt.WithEnableRouterClient(*useRouter))
	if !report("connect", err) {
		os.Exit(1)
	}
	passed := true
	for _, c := range []struct {
		name string
		run  func(context.Context, pd.Client) error
	}{
		{"members and leader", members},
		{"timestamps", tso},
		{"regions", regions},
		{"stores", stores},
		{"GC safe points", safePoints},
		{"resource groups", resourceGroups},
	} {
		passed = report(c.name, c.run(ctx, client)) && passed
	}
	client.Close()
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

func members(ctx context.Context, client pd.Client) error {
	list, err := client.GetAllMembers(ctx)
	if err == nil && (len(list) == 0 || client.GetLeaderURL() == "" || client.GetClusterID(ctx) == 0) {
		err = fmt.Errorf("%d members, leader %q, cluster %d", len(list), client.GetLeaderURL(), client.GetClusterID(ctx))
	}
	return err
}

func tso(ctx context.Context, client pd.Client) error {
	last := int64(0)
	for i := 0; i < timestamps; i++ {
		physical, logical, err := client.GetTS(ctx)
		if err != nil {
			return err
		}
		now := physical<<18 + logical
		if now <= last {
			return fmt.Errorf("%d came after %d", now, last)
		}
		last = now
	}
	if off := time.Since(time.UnixMilli(last >> 18)); off > 10*time.Second || off < -10*time.Second {
		return fmt.Errorf("%v away from the clock", off)
	}
	return nil
}

func regions(ctx context.Context, client pd.Client) error {
	region, err := client.GetRegion(ctx, []byte("m"))
	if err != nil || region == nil || region.Leader == nil {
		return errors.Join(err, fmt.Errorf("GetRegion: %v", region))
	}
	byID, err := client.GetRegionByID(ctx, region.Meta.Id)
	if err != nil || byID == nil || byID.Meta.Id != region.Meta.Id {
		return errors.Join(err, fmt.Errorf("GetRegionByID: %v", byID))
	}
	scanned, err := client.BatchScanRegions(ctx, []router.KeyRange{{}}, 1000)
	if err != nil || len(scanned) == 0 {
		return errors.Join(err, errors.New("BatchScanRegions: nothing"))
	}
	if first, last := scanned[0].Meta, scanned[len(scanned)-1].Meta; len(first.StartKey)+len(last.EndKey) != 0 {
		return fmt.Errorf("the regions do not cover all keys: %q to %q", first.StartKey, last.EndKey)
	}
	for i := 1; i < len(scanned); i++ {
		if string(scanned[i-1].Meta.EndKey) != string(scanned[i].Meta.StartKey) {
			return fmt.Errorf("a gap at %q", scanned[i].Meta.StartKey)
		}
	}
	if len(scanned) > 1 {
		previous, err := client.GetPrevRegion(ctx, scanned[1].Meta.StartKey)
		if err != nil || previous == nil || previous.Meta.Id != scanned[0].Meta.Id {
			return errors.Join(err, fmt.Errorf("GetPrevRegion: %v", previous))
		}
	}
	return nil
}

func stores(ctx context.Context, client pd.Client) error {
	list, err := client.GetAllStores(ctx)
	if err != nil || len(list) == 0 {
		return errors.Join(err, errors.New("GetAllStores: nothing"))
	}
	store, err := client.GetStore(ctx, list[0].Id)
	if err == nil && (store.Id != list[0].Id || store.Address == "") {
		err = fmt.Errorf("GetStore: %v", store)
	}
	return err
}

// safePoints asks without moving anything: a safe point of 0 is below whatever is set.
func safePoints(ctx context.Context, client pd.Client) error {
	_, err := client.UpdateGCSafePoint(ctx, 0)
	return err
}

// resourceGroups makes a group, changes it, takes tokens of it and deletes it.
func resourceGroups(ctx context.Context, client pd.Client) error {
	group := func(fillRate uint64) *rmpb.ResourceGroup {
		limits := &rmpb.TokenLimitSettings{FillRate: fillRate, BurstLimit: int64(fillRate)}
		settings := &rmpb.GroupRequestUnitSettings{RU: &rmpb.TokenBucket{Settings: limits}}
		return &rmpb.ResourceGroup{Name: "interop", Mode: rmpb.GroupMode_RUMode, Priority: 8, RUSettings: settings}
	}
	if _, err := client.AddResourceGroup(ctx, group(1000)); err != nil {
		return err
	}
	if _, err := client.ModifyResourceGroup(ctx, group(2000)); err != nil {
		return err
	}
	found, err := client.GetResourceGroup(ctx, "interop")
	if err != nil || found.GetRUSettings().GetRU().GetSettings().GetFillRate() != 2000 {
		return errors.Join(err, fmt.Errorf("GetResourceGroup: %v", found))
	}
	items := []*rmpb.RequestUnitItem{{Type: rmpb.RequestUnitType_RU, Value: 500}}
	granted, err := client.AcquireTokenBuckets(ctx, &rmpb.TokenBucketsRequest{
		Requests: []*rmpb.TokenBucketRequest{{
			ResourceGroupName:           "interop",
			Request:                     &rmpb.TokenBucketRequest_RuItems{RuItems: &rmpb.TokenBucketRequest_RequestRU{RequestRU: items}},
			ConsumptionSinceLastRequest: &rmpb.Consumption{RRU: 7},
		}},
		TargetRequestPeriodMs: 5000,
		ClientUniqueId:        1,
	})
	if err != nil || len(granted) != 1 || granted[0].GrantedRUTokens[0].GrantedTokens.Tokens != 500 {
		return errors.Join(err, fmt.Errorf("AcquireTokenBuckets: %v", granted))
	}
	listed, err := client.ListResourceGroups(ctx, pd.WithRUStats)
	if err != nil || len(listed) != 2 || listed[1].GetRUStats().GetRRU() != 7 {
		return errors.Join(err, fmt.Errorf("ListResourceGroups: %v", listed))
	}
	if _, err = client.DeleteResourceGroup(ctx, "interop"); err != nil {
		return err
	}
	if _, err = client.GetResourceGroup(ctx, "interop"); err == nil {
		return errors.New("the group is still there")
	}
	return nil
}
