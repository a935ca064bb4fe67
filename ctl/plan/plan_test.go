package plan

import (
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

var update = flag.Bool("update", false, "write testdata/*.txtar anew")

func parse(t *testing.T, name string, text []byte, dir string) *model.Snapshot {
	t.Helper()
	snapshot, _, err := config.Parse(name, text, dir)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// TestGolden compares old.yaml and new.yaml of each testdata/*.txtar: `changes` is a line for each key, `brief` what apply tells.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string][]byte{}
			dir := t.TempDir()
			for _, file := range archive.Files {
				files[file.Name] = file.Data
				if err := os.WriteFile(filepath.Join(dir, file.Name), file.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			old, next := parse(t, "old.yaml", files["old.yaml"], dir), parse(t, "new.yaml", files["new.yaml"], dir)
			said := map[string]string{"changes": lines(Diff(old, next)), "brief": strings.Join(append(Brief(old, next), ""), "\n")}
			for i, file := range archive.Files {
				got, ok := said[file.Name]
				if got = strings.ReplaceAll(got, dir+"/", ""); ok && *update {
					archive.Files[i].Data = []byte(got)
				} else if ok && got != string(file.Data) {
					t.Errorf("%s:\n%s\nwant:\n%s", file.Name, got, file.Data)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func lines(changes []api.Change) string {
	var all strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&all, "%s %s", c.Sign(), strings.TrimSpace(c.Kind+" "+c.Name))
		if c.Text != "" {
			fmt.Fprintf(&all, " | %s", c.Text)
		}
		if c.Before != "" {
			fmt.Fprintf(&all, " | before %s", c.Before)
		}
		fmt.Fprintf(&all, " | %s\n", c.At)
		for _, key := range c.Keys {
			fmt.Fprintf(&all, "    %s: %q -> %q\n", key.Key, key.Old, key.New)
		}
	}
	return all.String()
}

// TestDiffSeesEverything changes one value of the reference configuration after the other, and each is told.
func TestDiffSeesEverything(t *testing.T) {
	text, err := os.ReadFile("../../configs/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) *model.Snapshot { return parse(t, "reference.yaml", []byte(text), "../../configs") }
	old, next := read(string(text)), read("# a line more\n"+string(text))
	if changes := Diff(old, next); changes != nil {
		t.Errorf("other places in the file make changes:\n%s", lines(changes))
	}
	changed := 0
	each := func(path string) {
		changed++
		for _, irrelevant := range []string{".Read.", ".Copies", ".Tags"} { // of the file; derived from rules
			if strings.Contains(path+".", irrelevant) {
				return
			}
		}
		if len(Diff(old, next)) == 0 {
			t.Errorf("%s is another one, and nobody is told", path)
		}
	}
	mutate(reflect.ValueOf(next).Elem(), "", each)
	if changed < 300 {
		t.Errorf("only %d values were changed", changed)
	}
	if changes := Diff(old, next); changes != nil {
		t.Fatalf("the test left changes:\n%s", lines(changes))
	}
}

// mutate calls each with every value changed in turn.
func mutate(v reflect.Value, path string, each func(path string)) {
	change := func(other any) {
		before := reflect.ValueOf(v.Interface())
		v.Set(reflect.ValueOf(other).Convert(v.Type()))
		each(path)
		v.Set(before)
	}
	switch value := v.Interface().(type) {
	case model.Position:
		return
	case model.SetKind:
		change((value + 1) % 3)
		return
	case model.Per:
		change(model.Per{What: value.What, Bits: [2]int{value.Bits[0] ^ 1, value.Bits[1]}})
		change(model.Per{What: value.What + "x", Bits: value.Bits})
		return
	case netip.Addr:
		change(netip.MustParseAddr("192.0.2.99"))
		return
	case netip.AddrPort:
		change(netip.MustParseAddrPort("127.0.0.1:99"))
		return
	case netip.Prefix:
		change(netip.MustParsePrefix("192.0.2.99/32"))
		return
	case model.Export:
		mutateExport(v, value, path, each)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			mutate(v.Field(i), path+"."+v.Type().Field(i).Name, each)
		}
	case reflect.Slice:
		for i := range min(v.Len(), 4) {
			mutate(v.Index(i), fmt.Sprintf("%s[%d]", path, i), each)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			mutate(v.Elem(), path, each)
			before := reflect.ValueOf(v.Interface())
			v.SetZero()
			each(path)
			v.Set(before)
		}
	case reflect.String:
		change(v.String() + "x")
	case reflect.Bool:
		change(!v.Bool())
	default:
		change(reflect.ValueOf(v.Interface()).Convert(reflect.TypeFor[uint64]()).Uint() ^ 1)
	}
}

// mutateExport leaves out what belongs to other kinds of exports: those values are defaults that mean nothing.
func mutateExport(v reflect.Value, e model.Export, path string, each func(path string)) {
	belongs := map[string]bool{"IPFIX": e.IPFIX != "", "File": e.File != "", "Kafka": e.Kafka != nil,
		"Transport": e.IPFIX != "", "Refresh": e.IPFIX != "", "Domain": e.IPFIX != "",
		"Format": e.File != "", "Rotate": e.File != "",
		"Topic": e.Kafka != nil, "TLS": e.Kafka != nil, "Login": e.Kafka != nil}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; belongs[name] {
			mutate(v.Field(i), path+"."+name, each)
		}
	}
}

func TestMovedRules(t *testing.T) {
	for order, want := range map[string]string{
		"abcdef": "", "bcdefa": "a", "fabcde": "f", "abdcef": "c", "fedcba": "fedcb", "acbdfe": "bf", "": "",
	} {
		var old, next []model.Rule
		for _, name := range "abcdef" {
			old = append(old, model.Rule{Name: string(name), Action: model.Drop})
		}
		for _, name := range order {
			next = append(next, model.Rule{Name: string(name), Action: model.Drop})
		}
		d := differ{whole: true}
		d.rules(old, next)
		moved := ""
		for _, c := range d.changes {
			if c.Change == api.ChangeChanged && c.Keys[0].Key == "position" {
				moved += c.Name
			}
		}
		if len(moved) != len(want) {
			t.Errorf("%s: told as moved are %q, want %q or as many", order, moved, want)
		}
	}
}

func ring(id uint32, size int, members ...lb.Member) compile.Ring {
	return compile.Ring{ID: id, Service: "web", Size: size, Members: members}
}

func members(n int) (all []lb.Member) {
	for i := range n {
		all = append(all, lb.Member{Name: fmt.Sprintf("b%d", i), ID: uint16(i + 1), Weight: 100})
	}
	return all
}

func side(affinity model.Affinity, r compile.Ring) Side {
	return Side{&model.Snapshot{Services: []model.Service{{Name: "web", Affinity: affinity}}}, []compile.Ring{r}}
}

func TestShares(t *testing.T) {
	ten, eleven := members(10), members(11)
	heavy := members(10)
	heavy[0].Weight = 200
	for _, tc := range []struct {
		what      string
		old, next Side
		state     map[uint16]compile.Runtime
		want, off float64
	}{
		{"nothing", side("", ring(1, 0, ten...)), side("flow", ring(1, 0, ten...)), nil, 0, 0},
		{"one more", side("", ring(1, 0, ten...)), side("", ring(2, 0, eleven...)), nil, 1.0 / 11, 0.02},
		{"one less", side("", ring(1, 0, eleven...)), side("", ring(2, 0, ten...)), nil, 1.0 / 11, 0.02},
		{"weight", side("", ring(1, 0, ten...)), side("", ring(2, 0, heavy...)), nil, 1.0/5.5 - 0.1, 0.03},
		{"one more that is down", side("", ring(1, 0, ten...)), side("", ring(2, 0, eleven...)), map[uint16]compile.Runtime{11: {Down: true}}, 0, 0},
		{"larger ring", side("", ring(1, 0, ten...)), side("", ring(2, 131071, ten...)), nil, 0.9, 0.03},
		{"affinity", side("flow", ring(1, 0, ten...)), side("source", ring(1, 0, ten...)), nil, 0.9, 0.001},
	} {
		shares := Shares(tc.old, tc.next, tc.state)
		if tc.want == 0 {
			if shares != nil {
				t.Errorf("%s: %+v", tc.what, shares)
			}
			continue
		}
		if len(shares) != 1 || math.Abs(shares[0].Moved-tc.want) > tc.off {
			t.Errorf("%s: %+v, want %.3f", tc.what, shares, tc.want)
			continue
		}
		var before, after float64
		for _, b := range shares[0].Backends {
			before, after = before+b.Before, after+b.After
		}
		if math.Abs(before-1) > 1e-9 || math.Abs(after-1) > 1e-9 {
			t.Errorf("%s: parts add up to %v and %v", tc.what, before, after)
		}
	}
}

// Rings of two sizes are compared as if each were as fine as both together.
func TestMovedOfOtherSizes(t *testing.T) {
	old, next := []uint16{1, 2, 3}, []uint16{1, 1, 2, 3, 3}
	moved := 0
	for i := range 15 {
		if old[i/5] != next[i/3] {
			moved++
		}
	}
	if got := Moved(old, next); got != float64(moved)/15 {
		t.Errorf("%v moved, want %d/15", got, moved)
	}
}

func BenchmarkDiff(b *testing.B) {
	var old, next model.Snapshot
	for i := range 100_000 {
		r := model.Rule{Name: fmt.Sprintf("r%d", i), Action: model.Drop, Match: []model.Condition{
			{Field: "src", Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)}},
			{Field: "dport", Ranges: []model.Range{{Lo: 80, Hi: 80}}}}}
		old.Filter.Rules = append(old.Filter.Rules, r)
		r.Match = append([]model.Condition(nil), r.Match...)
		next.Filter.Rules = append(next.Filter.Rules, r)
	}
	next.Filter.Rules[50_000].Log = 7
	for b.Loop() {
		if len(Diff(&old, &next)) != 1 {
			b.Fatal("one rule differs")
		}
	}
}
