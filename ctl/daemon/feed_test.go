package daemon

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
)

// feed is a list of a million entries, about a quarter of them networks.
func feed(family string, seed uint64) []byte {
	var b bytes.Buffer
	random := rand.New(rand.NewPCG(seed, seed))
	for i := range 1_000_000 {
		a, network := random.Uint64(), random.IntN(4) == 0
		switch {
		case (family == "v4" || family == "mixed" && i%2 == 0) && network:
			fmt.Fprintf(&b, "%d.%d.%d.0/24\n", 1+a>>56&127, a>>48&255, a>>40&255)
		case family == "v4" || family == "mixed" && i%2 == 0:
			fmt.Fprintf(&b, "%d.%d.%d.%d\n", 1+a>>56&127, a>>48&255, a>>40&255, a>>32&255)
		case network:
			fmt.Fprintf(&b, "2%03x:%x:%x::/48\n", a>>52, a>>36&0xffff, a>>20&0xffff)
		default:
			fmt.Fprintf(&b, "2%03x:%x:%x:%x::%x\n", a>>52, a>>36&0xffff, a>>20&0xffff, a&0xffff, random.Uint32()&0xffff)
		}
	}
	return b.Bytes()
}

// cpuTime is what the daemon has used so far.
func (w *world) cpuTime() time.Duration {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.process.Pid()))
	w.must(err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		w.must(err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestMillionEntries prints what each takes.
func TestMillionEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("reads millions of entries")
	}
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	for _, family := range []string{"v4", "v6", "mixed"} {
		t.Run(family, func(t *testing.T) {
			sub := *w
			sub.T = t
			w := &sub
			file := family + ".set"
			for attempt := range uint64(2) {
				w.write(file, string(feed(family, attempt+1)))
				cpu, begin := w.cpuTime(), time.Now()
				_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "feed.yaml", Dir: w.dir, YAML: strings.Replace(dropping, "bad.set", file, 1)})
				took := time.Since(begin)
				w.must(err)
				used := w.cpuTime() - cpu
				t.Logf("applied in %s, %s of CPU time", took.Round(time.Millisecond), used)
			}
			begin := time.Now()
			set := w.set()
			t.Logf("%d entries, %d wanted, %d in the kernel; counted in %s", set.Entries, set.Wanted, set.Kernel, time.Since(begin).Round(time.Millisecond))
			if set.Entries != 1_000_000 || set.Kernel != set.Wanted || set.Difference != "" || set.Wanted < 900_000 {
				t.Errorf("set %+v", set)
			}
		})
	}
}

// A set of pairs in a file drops its address with its port, and is read again as others are.
func TestPairsFile(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", strings.NewReplacer("{file: bad.set}", "{file: bad.set, kind: pairs}", `src: "@bad"`, `dst: "@bad"`).Replace(dropping)+
		"  default: pass\n")
	w.write("bad.set", "10.0.0.11:7776\n")
	w.start()
	if !w.passes() {
		t.Error("another port is dropped")
	}
	w.write("bad.set", "10.0.0.11:7777\n10.0.0.11:7777\n10.0.0.11:7776\n")
	w.until("the file is read", func() error { return w.generation(2) })
	if w.passes() {
		t.Error("the pair is not dropped")
	}
	w.until("the set is counted", func() error {
		if set := w.set(); set.Kind != "pairs" || set.Entries != 3 || set.Wanted != 2 || set.State != "ok" || set.Packets == 0 ||
			!strings.Contains(set.Difference, "parts of the rules") {
			return fmt.Errorf("set %+v", set)
		}
		return nil
	})
}
