package daemon

import (
	"strings"
	"testing"

	"gardu/ctl/api"
)

// Who lost the connection asks for what came after the last event it got, and is told what nobody remembers.
func TestEventsAfter(t *testing.T) {
	d := tokenDaemon(t, t.TempDir())
	for range 3 {
		d.happened(api.Event{Kind: api.EventBlock})
	}
	tell := func(after string) (events []api.Event, err error) {
		wish := api.EventWish{Match: func(e *api.Event) bool { return e.Kind != api.EventLost }, Last: -1, After: after}
		err = d.Events(t.Context(), wish, func(e api.Event, _ bool) error {
			events = append(events, e)
			return nil
		})
		return events, err
	}
	all, err := tell("")
	if err != nil || len(all) != 3 || all[0].ID == "" || all[0].ID == all[1].ID {
		t.Fatalf("%+v, %v", all, err)
	}
	if rest, err := tell(all[0].ID); err != nil || len(rest) != 2 || rest[0].ID != all[1].ID {
		t.Errorf("after the first: %+v, %v", rest, err)
	}
	if rest, err := tell(all[2].ID); err != nil || len(rest) != 0 {
		t.Errorf("after the last: %+v, %v", rest, err)
	}
	for range keptEvents {
		d.happened(api.Event{Kind: api.EventUnblock})
	}
	if rest, err := tell(all[0].ID); err != nil || len(rest) != 1+keptEvents || rest[0].Kind != api.EventLost || rest[0].Count != 2 {
		t.Errorf("after one that is forgotten: %d, %v, %+v", len(rest), err, rest[:min(2, len(rest))])
	}
	if rest, err := tell("1-1"); err != nil || len(rest) != 1+keptEvents || !strings.Contains(rest[0].Text, "before this daemon began") {
		t.Errorf("after one of another daemon: %d, %v", len(rest), err)
	}
	for _, wrong := range []string{"x", "-", "1-", "1-?", "1-1-1"} {
		if _, err := tell(wrong); err == nil || !strings.Contains(err.Error(), "not the id of an event") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
