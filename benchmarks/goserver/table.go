package main

import (
	"sort"
	"sync"
)

// table is the data: a hash map for the point operations that are measured, and the keys in order for scans, sorted
// when a scan finds that keys were added since the last one.
type table struct {
	mu     sync.RWMutex
	values map[string][]byte
	keys   []string // sorted; may hold keys that are gone
	added  []string // keys not yet merged into keys
}

func newTable() *table {
	return &table{values: make(map[string][]byte)}
}

func (t *table) get(key []byte) ([]byte, bool) {
	t.mu.RLock()
	value, found := t.values[string(key)]
	t.mu.RUnlock()
	return value, found
}

func (t *table) put(key, value []byte) {
	t.mu.Lock()
	t.putLocked(key, value)
	t.mu.Unlock()
}

func (t *table) putLocked(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	if _, found := t.values[string(key)]; !found {
		t.added = append(t.added, string(key))
	}
	t.values[string(key)] = value
}

func (t *table) delete(keys ...[]byte) {
	t.mu.Lock()
	for _, key := range keys {
		delete(t.values, string(key))
	}
	t.mu.Unlock()
}

// ordered merges what was added and drops what is gone; the lock must be held for writing.
func (t *table) ordered() []string {
	if len(t.added) > 0 || len(t.keys) > 2*len(t.values) {
		t.keys = append(t.keys, t.added...)
		t.added = nil
		sort.Strings(t.keys)
		kept := t.keys[:0]
		for _, key := range t.keys {
			if _, found := t.values[key]; found && (len(kept) == 0 || kept[len(kept)-1] != key) {
				kept = append(kept, key)
			}
		}
		t.keys = kept
	}
	return t.keys
}

// scan calls visit for the pairs of [start, end) in order, or in reverse order, until it answers false.
func (t *table) scan(start, end string, reverse bool, visit func(key string, value []byte) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := t.ordered()
	from, to := sort.SearchStrings(keys, start), len(keys)
	if end != "" {
		to = sort.SearchStrings(keys, end)
	}
	for i := from; i < to; i++ {
		key := keys[i]
		if reverse {
			key = keys[to-1-(i-from)]
		}
		if value, found := t.values[key]; found && !visit(key, value) {
			return
		}
	}
}

func (t *table) deleteRange(start, end string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := t.ordered()
	from, to := sort.SearchStrings(keys, start), len(keys)
	if end != "" {
		to = sort.SearchStrings(keys, end)
	}
	for i := from; i < to; i++ {
		delete(t.values, keys[i])
	}
}

// compareAndSwap sets or deletes key if it is as expected (found tells whether it must be there at all).
func (t *table) compareAndSwap(key, expected []byte, expectedFound bool, value []byte, remove bool) (old []byte, found, swapped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, found = t.values[string(key)]
	if found != expectedFound || (found && string(old) != string(expected)) {
		return old, found, false
	}
	if remove {
		delete(t.values, string(key))
	} else {
		t.putLocked(key, value)
	}
	return old, found, true
}
