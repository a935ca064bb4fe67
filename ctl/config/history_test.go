package config

import (
	"testing"
	"time"

	"gardu/ctl/model"
)

func TestHistory(t *testing.T) {
	for text, want := range map[string]model.History{
		"{}": {Enabled: true, MaxSize: 1_000_000_000, Top: 500,
			Keep: model.Keep{Minutes: 24 * time.Hour, Fives: 7 * 24 * time.Hour, Hours: 90 * 24 * time.Hour}},
		"{dir: /var/./flows, keep: {1m: 36h, 5m: 7d12h, 1h: 3650d}, max-size: 2.5GB, top: 10}": {
			Enabled: true, Dir: "/var/flows", MaxSize: 2_500_000_000, Top: 10,
			Keep: model.Keep{Minutes: 36 * time.Hour, Fives: 180 * time.Hour, Hours: 3650 * 24 * time.Hour}},
	} {
		got := mustParse(t, "interfaces: {eth0: }\nflows: {history: "+text+"}").Flows.History
		got.Pos, got.Keep.Pos = model.Position{}, model.Position{}
		if got != want {
			t.Errorf("%s is %+v, want %+v", text, got, want)
		}
	}
	if got := mustParse(t, "interfaces: {eth0: }\nflows:").Flows.History; got.Enabled {
		t.Errorf("%+v", got)
	}
}
