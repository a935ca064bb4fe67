package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/model"
)

func target(backend string) Target {
	return Target{
		Service: "web", Backend: backend, Address: netip.MustParseAddrPort("192.0.2.1:80"),
		Check: model.Health{TCP: true, Every: 2 * time.Second, Timeout: time.Second, Up: 2, Down: 3},
	}
}

// script is a backend whose checks end as told, the last one for ever.
type script struct {
	results []bool
	asked   atomic.Int32
}

func (s *script) probe(context.Context, Target) (string, error) {
	i := min(int(s.asked.Add(1))-1, len(s.results)-1)
	if !s.results[i] {
		return "", errors.New("broken")
	}
	return "fine", nil
}

// run runs a checker with one scripted target in fake time, for so many checks, and returns the states after each.
func run(t *testing.T, known State, results ...bool) (states []State) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{results: results}
		c := New(Options{})
		c.probe = s.probe
		c.Set([]Target{target("b1")}, func(string, string) State { return known })
		ctx, cancel := context.WithCancel(t.Context())
		go c.Run(ctx)
		for i := range results {
			for int(s.asked.Load()) <= i {
				time.Sleep(10 * time.Millisecond)
			}
			synctest.Wait()
			result, _ := c.Result("web", "b1")
			states = append(states, result.State)
		}
		cancel()
	})
	return states
}

func TestHysteresis(t *testing.T) {
	const ok, bad = true, false
	for _, c := range []struct {
		name    string
		known   State
		results []bool
		want    []State
	}{
		{"the first success decides", Unknown, []bool{ok}, []State{Up}},
		{"the first failure decides", Unknown, []bool{bad}, []State{Down}},
		{"three failures", Unknown, []bool{ok, bad, bad, bad}, []State{Up, Up, Up, Down}},
		{"a success between", Unknown, []bool{ok, bad, bad, ok, bad, bad, bad}, []State{Up, Up, Up, Up, Up, Up, Down}},
		{"two successes", Unknown, []bool{bad, ok, bad, ok, ok}, []State{Down, Down, Down, Down, Up}},
		{"known to be down", Down, []bool{ok, ok}, []State{Down, Up}},
		{"known to be up", Up, []bool{bad, bad, bad}, []State{Up, Up, Down}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := run(t, c.known, c.results...); !slices.Equal(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var times []time.Duration
		c := New(Options{})
		c.probe = func(context.Context, Target) (string, error) {
			times = append(times, time.Since(begin))
			return "", nil
		}
		c.Set([]Target{target("b1")}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if times[0] >= time.Second {
			t.Errorf("the first check came after %s", times[0])
		}
		different := false
		for i := 1; i < len(times); i++ {
			gap := times[i] - times[i-1]
			if gap < 1800*time.Millisecond || gap > 2200*time.Millisecond {
				t.Errorf("%s between checks, want 2 s and a tenth more or less", gap)
			}
			different = different || gap != times[1]-times[0]
		}
		if !different {
			t.Error("no jitter")
		}
	})
}

// TestScheduleOfSlowChecks: what checks take doesn't make the interval longer, unless they take longer than it, and none is made up for.
func TestScheduleOfSlowChecks(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		want  int
	}{{0, 60}, {time.Second, 60}, {1700 * time.Millisecond, 60}, {4 * time.Second, 30}} {
		synctest.Test(t, func(t *testing.T) {
			made := 0
			checker := New(Options{})
			checker.probe = func(context.Context, Target) (string, error) {
				made++
				takes := c.takes
				if made == 1 { // is late by far, once
					takes += 10 * time.Second
				}
				time.Sleep(takes)
				return "", nil
			}
			checker.Set([]Target{target("b1")}, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 130*time.Second)
			defer cancel()
			_ = checker.Run(ctx)
			if made < c.want-3 || made > c.want+3 {
				t.Errorf("%d checks that take %s in two minutes, want %d", made, c.takes, c.want)
			}
		})
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Concurrency: 3})
		var now, most, done atomic.Int32
		c.probe = func(context.Context, Target) (string, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(100 * time.Millisecond)
			now.Add(-1)
			done.Add(1)
			return "", nil
		}
		var targets []Target
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			targets = append(targets, target(name))
		}
		c.Set(targets, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = c.Run(ctx)
		if most.Load() > 3 || done.Load() < 8 {
			t.Errorf("%d at once, %d done", most.Load(), done.Load())
		}
	})
}

func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var changes []Change
		c := New(Options{Changed: func(change Change) {
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, change)
		}})
		s := &script{results: []bool{true, false, false, false}}
		c.probe = s.probe
		c.Set([]Target{target("b1")}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = c.Run(ctx)
		if len(changes) != 2 || changes[0].To != Up || changes[0].Why != "fine" || changes[1].From != Up || changes[1].To != Down || changes[1].Why != "broken" {
			t.Errorf("got %+v", changes)
		}
		result, ok := c.Result("web", "b1")
		if !ok || result.State != Down || result.Since != changes[1].At || !result.Last.After(result.Since) {
			t.Errorf("got %+v", result)
		}
	})
}

func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(map[string]int)
		var mu sync.Mutex
		c := New(Options{})
		c.probe = func(_ context.Context, t Target) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[t.Backend]++
			return "", nil
		}
		count := func(name string) int {
			mu.Lock()
			defer mu.Unlock()
			return asked[name]
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.Run(ctx)
		c.Set([]Target{target("stays"), target("goes"), target("changes")}, nil)
		time.Sleep(time.Second)
		before, _ := c.Result("web", "stays")

		changed := target("changes")
		changed.Check.Every = time.Hour
		c.Set([]Target{target("stays"), changed, target("comes")}, nil)
		gone := count("goes")
		if after, _ := c.Result("web", "stays"); after != before {
			t.Error("the result of an unchanged target was lost")
		}
		if result, _ := c.Result("web", "changes"); result.State != Up {
			t.Error("another interval made the state unknown")
		}
		if _, ok := c.Result("web", "goes"); ok {
			t.Error("a removed target has a result")
		}
		time.Sleep(10 * time.Second)
		if count("goes") != gone || count("comes") == 0 {
			t.Errorf("checks: %v", asked)
		}
		moved := target("stays")
		moved.Address = netip.MustParseAddrPort("192.0.2.2:80")
		c.Set([]Target{moved}, nil)
		if result, _ := c.Result("web", "stays"); result.State != Unknown {
			t.Error("another address kept the state of the old one")
		}
	})
}

// TestThousandBackends: none is checked later because others don't answer.
func TestThousandBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done atomic.Int32
		c := New(Options{})
		c.probe = func(ctx context.Context, t Target) (string, error) {
			defer done.Add(1)
			if t.Service == "dead" {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "", nil
		}
		var targets []Target
		for i := range 1000 {
			one := target(strconv.Itoa(i))
			one.Check.Every, one.Check.Timeout = time.Second, time.Second
			if i%2 == 0 {
				one.Service = "dead"
			}
			targets = append(targets, one)
		}
		c.Set(targets, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 61*time.Second)
		defer cancel()
		_ = c.Run(ctx)
		// Those that take the time-out, too: it is as long as the interval, so theirs is only longer where it were shorter than that.
		if got := done.Load(); got < 58_500 {
			t.Errorf("%d checks in a minute, want 60,000", got)
		}
	})
}

// BenchmarkThousandOnOneCore checks 1,000 backends that answer, by TCP and HTTP, each every second, on one core: how many of those that are due
// are made, and what part of the core they take, with what answers them.
func BenchmarkThousandOnOneCore(b *testing.B) {
	const backends, seconds = 1000, 6
	b.Cleanup(func(before int) func() { return func() { runtime.GOMAXPROCS(before) } }(runtime.GOMAXPROCS(1)))
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go server.Serve(listener)
	b.Cleanup(func() { server.Close() })

	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	var targets []Target
	for i := range backends {
		one := target(strconv.Itoa(i))
		one.Address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), port)
		one.Check = model.Health{TCP: i%2 == 0, Every: time.Second, Timeout: time.Second, Up: 1, Down: 1, Status: model.Range{Lo: 200, Hi: 399}}
		if i%2 != 0 {
			one.Check.HTTP = "/"
		}
		targets = append(targets, one)
	}
	c := New(Options{})
	probe := c.probe
	var done, failed atomic.Int32
	c.probe = func(ctx context.Context, t Target) (string, error) {
		seen, err := probe(ctx, t)
		if ctx.Err() == nil {
			done.Add(1)
		}
		if err != nil && ctx.Err() == nil {
			failed.Add(1)
		}
		return seen, err
	}
	c.Set(targets, nil)
	ctx, cancel := context.WithTimeout(b.Context(), seconds*time.Second)
	defer cancel()
	before := cpuTime(b)
	_ = c.Run(ctx)
	used := cpuTime(b) - before
	b.ReportMetric(100*float64(done.Load()-failed.Load())/(backends*seconds), "%_in_time")
	b.ReportMetric(100*float64(used)/(seconds*float64(time.Second)), "%_of_a_core")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func TestTargets(t *testing.T) {
	check := &model.Health{HTTP: "/healthz", Every: time.Second, Pos: model.Position{Line: 7}}
	got := Targets(&model.Snapshot{Services: []model.Service{
		{Name: "quiet", Address: netip.MustParseAddr("192.0.2.9"), Backends: []model.Backend{{Name: "b"}}},
		{
			Name: "web", Address: netip.MustParseAddr("2001:db8::1"), Port: model.Range{Lo: 443, Hi: 443}, Health: check,
			Backends: []model.Backend{{Name: "b1", Address: netip.MustParseAddr("10.0.0.1")}},
		},
	}})
	want := []Target{{ // the mode is not known, so nothing is said of the way
		Service: "web", Backend: "b1", Address: netip.MustParseAddrPort("10.0.0.1:443"), Host: "[2001:db8::1]:443",
		Check: model.Health{HTTP: "/healthz", Port: 443, Every: time.Second},
	}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestTargetsWay(t *testing.T) {
	for _, c := range []struct {
		mode model.Mode
		via  model.Via
		want string
	}{
		{"ipip", "", "192.0.2.1:80"}, {"dsr", "", "192.0.2.1:80"}, {"gue", model.ViaService, "192.0.2.1:80"},
		{"ipip", model.ViaBackend, "invalid AddrPort"}, {"none-that-can", "", "invalid AddrPort"},
	} {
		targets := Targets(&model.Snapshot{Services: []model.Service{{
			Name: "web", Address: netip.MustParseAddr("192.0.2.1"), Port: model.Range{Lo: 80, Hi: 80}, Forward: c.mode,
			Backends: []model.Backend{{Name: "b1", Address: netip.MustParseAddr("10.0.0.1")}}, Health: &model.Health{TCP: true, Via: c.via},
		}}})
		if got := targets[0].Through.String(); got != c.want {
			t.Errorf("%s, via %q: through %s, want %s", c.mode, c.via, got, c.want)
		}
	}
}
