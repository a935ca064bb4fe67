package daemon

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"gardu/ctl/api"
)

const keeping = `
interfaces:
  in0: {path: tc}
  out0: {path: auto}
flows: {max: 1000, idle: 1s, active: 1s, history: {}}
`

// past is what the history knows of the last hour.
func (w *world) past(group string) api.History {
	w.Helper()
	now := time.Now()
	history, err := w.api.History(w.Context(), api.HistoryQuery{Since: now.Add(-time.Hour), Until: now, Group: group})
	w.must(err)
	return history
}

// What flows did is known after they have gone, also to the next daemon, to the packet.
func TestHistory(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", keeping)
	w.start()
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	kept := func() (packets, bytes uint64) {
		for _, g := range w.past("dport").Groups {
			packets, bytes = packets+g.Packets+g.PacketsReply, bytes+g.Bytes+g.BytesReply
		}
		return packets, bytes
	}
	w.until("everything is kept", func() error {
		packets, bytes := kept()
		if f := w.status().Flows; packets != f.Accounted || bytes != f.AccountedBytes || f.Accounted == 0 {
			return fmt.Errorf("%d packets and %d bytes are kept, %d and %d accounted", packets, bytes, f.Accounted, f.AccountedBytes)
		}
		return nil
	})
	found := false
	for _, g := range w.past("src,dst,dport,proto,verdict,interface").Groups {
		found = found || g.Group["src"] == "198.51.100.10" && g.Group["dst"] == "10.0.0.11" && g.Group["dport"] == "7777" &&
			g.Group["proto"] == "udp" && g.Group["verdict"] == "pass" && g.Group["interface"] == "in0" && g.Packets > 0 && g.Flows == 1
	}
	if !found {
		t.Errorf("kept are %+v", w.past("src,dst,dport,proto,verdict,interface"))
	}
	status := w.status().History
	if r := status.Reported; status.Written != r || status.Lost != (api.HistoryCounts{}) || status.Path == "" || status.Size == 0 || r.Packets == 0 {
		t.Errorf("%+v", status)
	}
	before, _ := kept()
	w.must(w.process.Signal(syscall.SIGTERM))
	w.wantEnd("<nil>")
	w.start()
	if after, _ := kept(); after < before {
		t.Errorf("%d packets were kept, %d are after a restart", before, after)
	}
	w.write("gardu.yaml", reporting)
	w.must(w.process.Signal(syscall.SIGHUP))
	w.until("the history is off", func() error {
		_, err := w.api.History(w.Context(), api.HistoryQuery{Since: time.Now().Add(-time.Hour)})
		if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != api.CodeConflict {
			return fmt.Errorf("it says %v", err)
		}
		return nil
	})
	if w.status().History != nil {
		t.Errorf("%+v", w.status().History)
	}
}

// A history that can't be written is told, and nothing else suffers.
func TestHistoryUnavailable(t *testing.T) {
	w := newWorld(t)
	w.must(os.MkdirAll(w.options.StateDir, 0o700))
	w.must(os.WriteFile(w.path("state/history"), nil, 0o600))
	w.write("gardu.yaml", keeping)
	w.start()
	if !w.passes() {
		t.Error("nothing passes")
	}
	if text := strings.Join(w.status().Warnings, "\n"); !strings.Contains(text, "the history isn't written") {
		t.Errorf("warnings: %s", text)
	}
	w.told(api.EventFault, "the history isn't written")
	w.must(os.Remove(w.path("state/history")))
	w.past("rule") // writes before it answers
	w.notWarned()
	w.told(api.EventMended, "write the history")
}

// A file that is damaged while the daemon runs is set aside, and told of.
func TestHistoryIsDamaged(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", keeping)
	w.start()
	w.past("rule")
	path := w.path("state/history/flows.db")
	info, err := os.Stat(path)
	w.must(err)
	w.must(os.WriteFile(path, make([]byte, info.Size()), 0o600))
	w.must(os.Truncate(path+"-wal", 0))
	if !w.passes() {
		t.Error("nothing passes")
	}
	w.until("the damage is found", func() error {
		_, _ = w.api.History(t.Context(), api.HistoryQuery{})
		if warnings := strings.Join(w.status().Warnings, "\n"); !strings.Contains(warnings, "was set aside as") {
			return fmt.Errorf("warnings: %s", warnings)
		}
		return nil
	})
	w.told(api.EventFault, "was set aside as")
	w.past("rule")
}
