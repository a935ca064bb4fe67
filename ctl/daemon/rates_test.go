package daemon

import (
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
)

func TestRates(t *testing.T) {
	begin := time.Now()
	read := func(second int, packets uint64) backendReading {
		return backendReading{begin.Add(time.Duration(second) * time.Second), map[uint16]abi.BackendCounter{7: {Packets: packets, Bytes: 100 * packets, Flows: packets / 10}}}
	}
	var r rates
	want := func(second int, packets uint64, want api.Rates) {
		t.Helper()
		now := read(second, packets)
		if got := r.of(7, now.byID[7], now.at); got != want {
			t.Errorf("after %d s: %+v, want %+v", second, got, want)
		}
	}
	want(0, 100, api.Rates{})
	r.note(read(0, 0))
	want(0, 100, api.Rates{}) // too soon
	want(4, 400, api.Rates{Packets: 100, Bytes: 10_000, Flows: 10})
	r.note(read(5, 500))
	want(5, 500, api.Rates{Packets: 100, Bytes: 10_000, Flows: 10}) // by the older one
	r.note(read(10, 500))
	want(15, 1500, api.Rates{Packets: 100, Bytes: 10_000, Flows: 10})
	want(15, 20, api.Rates{}) // another backend has the id now
	if got := r.of(8, abi.BackendCounter{Packets: 5}, begin.Add(15*time.Second)); got != (api.Rates{}) {
		t.Errorf("of a new one: %+v", got)
	}
	if got := plus(api.Rates{Packets: 149.9}, api.Rates{Packets: 49.7}); got.Packets != 199.6 {
		t.Errorf("149.9 and 49.7 are %v", got.Packets)
	}
}
