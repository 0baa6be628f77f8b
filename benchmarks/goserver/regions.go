package main

import (
	"bytes"
	"fmt"
	"sort"

	"github.com/pingcap/kvproto/pkg/metapb"
)

const (
	firstRegionID = 1_000_000_000
	firstPeerID   = 2_000_000_000
	keySpan       = 100_000_000 // numbers of 8 digits
)

// regions is the fixed table of regions, ordered by key; the n-th has the id firstRegionID+n and one peer.
type regions struct {
	metas   []*metapb.Region
	borders []string // region i holds the keys from borders[i] to borders[i+1], "" at both ends
}

// newRegions makes the table. Transactional clients ask PD for keys in memcomparable form, and borders have it then too.
func newRegions(count int, prefix string, stores int, memcomparable bool) *regions {
	table := &regions{metas: make([]*metapb.Region, count), borders: make([]string, count+1)}
	for i := 1; i < count; i++ {
		table.borders[i] = fmt.Sprintf("%s%08d", prefix, i*keySpan/count)
	}
	border := func(i int) []byte {
		if key := table.borders[i]; key != "" && memcomparable {
			return encode(key)
		}
		return []byte(table.borders[i])
	}
	for i := range table.metas {
		table.metas[i] = &metapb.Region{
			Id:          uint64(firstRegionID + i),
			StartKey:    border(i),
			EndKey:      border(i + 1),
			RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: uint64(count)},
			Peers:       []*metapb.Peer{{Id: uint64(firstPeerID + i), StoreId: uint64(i%stores + 1)}},
		}
	}
	return table
}

// encode puts a key in memcomparable form: groups of 8 bytes, each with a byte after it that tells how many were filled in.
func encode(key string) []byte {
	var out []byte
	for {
		n := min(len(key), 8)
		out = append(append(out, key[:n]...), make([]byte, 8-n)...)
		out = append(out, byte(0xff-(8-n)))
		if n < 8 {
			return out
		}
		key = key[n:]
	}
}

// index tells which region holds key.
func (r *regions) index(key []byte) int {
	return sort.Search(len(r.metas), func(i int) bool { return bytes.Compare(r.metas[i].StartKey, key) > 0 }) - 1
}

func (r *regions) byID(id uint64) *metapb.Region {
	if id < firstRegionID || id >= firstRegionID+uint64(len(r.metas)) {
		return nil
	}
	return r.metas[id-firstRegionID]
}

// scan lists the regions that touch [start, end), at most limit of them (0: all).
func (r *regions) scan(start, end []byte, limit int) []*metapb.Region {
	from, to := r.index(start), len(r.metas)
	if len(end) > 0 {
		to = sort.Search(len(r.metas), func(i int) bool { return bytes.Compare(r.metas[i].StartKey, end) >= 0 })
	}
	if limit > 0 {
		to = min(to, from+limit)
	}
	return r.metas[from:max(from, to)]
}
