package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/flow"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

func TestStateSurvives(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gardu")
	if s, err := loadState(dir); err != nil || !reflect.DeepEqual(s, state{}) {
		t.Fatalf("without a file: %+v, %v", s, err)
	}
	want := state{
		Version: stateVersion, Revision: 7, Digest: "d", Config: "gardu.yaml",
		Applied:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		IDs:      compile.IDs{Rules: map[string]uint32{"a": 16}},
		Rings:    []compile.Ring{{ID: 1, Service: "web", Members: []lb.Member{{Name: "b1", ID: 1, Weight: 100}}}},
		Backends: []compile.Backend{{ID: 1, Name: "b1", ServiceName: "web", Address: netip.MustParseAddr("2001:db8::1"), Mode: abi.ModeDsr}},
		Dropped:  flow.Count{Packets: 1, Bytes: 60},
	}
	for range 2 { // also over an old one
		if err := want.save(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := loadState(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestStateRefused(t *testing.T) {
	for text, want := range map[string]string{
		"{":               "remove it to start anew",
		`{"version": 99}`: "version 99, this gardu reads 1",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadState(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// What makes a revision: the wish, not where it is written or what a set file holds.
func TestDigest(t *testing.T) {
	snapshot := func() *model.Snapshot {
		return &model.Snapshot{
			Sets: []model.Set{
				{Name: "file", File: "a.set", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
				{Name: "inline", Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}},
				{Name: "pairs", Kind: model.Pairs, Pairs: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:53")}},
			},
			Filter: model.Filter{Rules: []model.Rule{{Name: "a", Action: model.Drop, Match: []model.Condition{{Field: "src", Set: "file"}}}}},
		}
	}
	of := digest
	same := snapshot()
	same.Sets[0].Prefixes = nil
	same.Filter.Rules[0].Pos = model.Position{File: "x", Line: 1}
	same.Filter.Rules[0].Match[0].Pos = model.Position{File: "x", Line: 1}
	if of(same) != of(snapshot()) {
		t.Error("positions or the contents of a set file make a revision")
	}
	if sameLists(same, snapshot()) {
		t.Error("other contents of a set file are not seen")
	}
	other := snapshot()
	other.Sets[1].Prefixes = nil
	if moved := snapshot(); of(moved) == of(other) {
		t.Error("inline entries don't make a revision")
	}
	other = snapshot()
	other.Sets[2].Pairs[0] = netip.MustParseAddrPort("198.51.100.1:54")
	if of(other) == of(snapshot()) {
		t.Error("inline entries don't make a revision")
	}
}

// TestDigestSeesEverything changes one value of a full snapshot after the other, and each makes another digest.
func TestDigestSeesEverything(t *testing.T) {
	// fill sets every value, and the one whose turn it is to something else.
	var fill func(v reflect.Value, path string, turn *int) (changed string)
	fill = func(v reflect.Value, path string, turn *int) (changed string) {
		leaf := func(one, other any) {
			if *turn--; *turn == 0 {
				one, changed = other, path
			}
			v.Set(reflect.ValueOf(one).Convert(v.Type()))
		}
		switch {
		case v.Type() == reflect.TypeFor[model.Position]():
		case v.Type() == reflect.TypeFor[netip.Addr]():
			leaf(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
		case v.Type() == reflect.TypeFor[netip.Prefix]():
			leaf(netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.0/25"))
		case v.Type() == reflect.TypeFor[netip.AddrPort]():
			leaf(netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("192.0.2.1:444"))
		case path == ".Sets[0].File": // what is in a file doesn't count
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				changed += fill(v.Field(i), path+"."+v.Type().Field(i).Name, turn)
			}
		case v.Kind() == reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			changed = fill(v.Index(0), path+"[0]", turn)
		case v.Kind() == reflect.Array:
			for i := range v.Len() {
				changed += fill(v.Index(i), fmt.Sprintf("%s[%d]", path, i), turn)
			}
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			changed = fill(v.Elem(), path, turn)
		case v.Kind() == reflect.String:
			leaf("a", "b")
		case v.Kind() == reflect.Bool:
			leaf(true, false)
		default:
			leaf(1, 2)
		}
		return changed
	}
	seen := map[string]string{}
	for n := 0; ; n++ {
		var s model.Snapshot
		turn := n
		path := fill(reflect.ValueOf(&s).Elem(), "", &turn)
		if n > 0 && path == "" {
			break
		}
		if strings.HasPrefix(path, ".Sets[0].Read") {
			continue
		}
		sum := digest(&s)
		if before, ok := seen[sum]; ok {
			t.Errorf("changing %s comes to the same as %q", path, before)
		}
		seen[sum] = path
	}
	if len(seen) < 50 {
		t.Errorf("only %d values were changed", len(seen))
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 16)
	n, _, err := manager.ReadFrom(text)
	if err != nil || string(text[:n]) != "READY=1" {
		t.Errorf("told %q, %v", text[:n], err)
	}
}
