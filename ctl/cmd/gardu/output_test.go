package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
)

// many has more blocks than a page of a table, of which those on the second page are wider.
type many struct{ *apitest.Engine }

const manyBlocks = tablePage + 10

func (many) Blocks(context.Context) ([]api.Block, error) {
	blocks := make([]api.Block, manyBlocks)
	for i := range blocks {
		blocks[i] = api.Block{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32), Why: "scan", Packets: uint64(i)}
		if i > tablePage {
			blocks[i].Prefix = netip.MustParsePrefix(fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%x/128", i))
		}
	}
	return blocks, nil
}

// A list that is printed as it comes is, in each format, the whole list in its order.
func TestLongListIsWhole(t *testing.T) {
	engine := many{&apitest.Engine{}}
	serve(t, engine)
	want, err := engine.Blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	printed := func(format string) string {
		r := gardu(t, "blocks", "-o", format)
		if r.code != exitDone || r.stderr != "" {
			t.Fatalf("-o %s: exit %d, %s", format, r.code, r.stderr)
		}
		return r.stdout
	}
	whole, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if got := printed("json"); got != string(whole)+"\n" {
		t.Errorf("JSON of %d bytes is another one than that of the list, %d bytes", len(got), len(whole))
	}
	var rows []struct{ Prefix string }
	if err := yaml.Unmarshal([]byte(printed("yaml")), &rows); err != nil || len(rows) != len(want) {
		t.Fatalf("YAML of %d rows: %v", len(rows), err)
	}
	for i, row := range rows {
		if row.Prefix != want[i].Prefix.String() {
			t.Fatalf("YAML: row %d is %s, not %s", i, row.Prefix, want[i].Prefix)
		}
	}
	for _, format := range []string{"table", "csv"} {
		lines := strings.Split(strings.TrimSpace(printed(format)), "\n")[1:]
		if len(lines) != len(want) {
			t.Fatalf("%s: %d rows, not %d", format, len(lines), len(want))
		}
		for i, line := range lines {
			if !strings.HasPrefix(line, want[i].Prefix.String()) {
				t.Fatalf("%s: row %d is %q", format, i, line)
			}
		}
		if format == "table" && strings.Index(lines[0], "scan") != strings.Index(lines[tablePage-10], "scan") {
			t.Error("columns of a page don't line up")
		}
	}
}
