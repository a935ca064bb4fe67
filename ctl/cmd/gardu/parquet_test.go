package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"gardu/ctl/api/apitest"
)

// A Parquet file holds what CSV does, as another library reads it.
func TestParquetSaysWhatCSVDoes(t *testing.T) {
	serve(t, &apitest.Engine{})
	for _, query := range []string{"flows", "flows verdict drop", "flows --group service,src/24", "flows -n 1 --sort bytes",
		"flows --since 2026-11-23T11:00:00Z --until 2026-11-23T12:00:00Z --group src,service"} {
		path := filepath.Join(t.TempDir(), "flows.parquet")
		if r := gardu(t, append(strings.Fields(query), "--parquet", path)...); r.code != exitDone || r.stdout != "" {
			t.Fatalf("%s: %+v", query, r)
		}
		want, err := csv.NewReader(strings.NewReader(gardu(t, append(strings.Fields(query), "-o", "csv")...).stdout)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := readParquet(t, content)
		for i := range want {
			for k, name := range want[0] {
				if name == "rate" && i > 0 { // which CSV rounds
					rate, err := strconv.ParseFloat(got[i][k], 64)
					if err != nil {
						t.Fatal(err)
					}
					got[i][k] = plain(bitRate(rate))
				}
				if text := want[i][k]; (text == "0" || strings.HasPrefix(text, "-")) && got[i][k] == "" {
					got[i][k] = text
				}
			}
		}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: Parquet has\n%q\nCSV\n%q", query, got, want)
		}
	}
}

// readParquet gives a file as lines of words, below its names.
func readParquet(t *testing.T, content []byte) [][]string {
	t.Helper()
	table, err := pqarrow.ReadTable(t.Context(), bytes.NewReader(content), parquet.NewReaderProperties(memory.DefaultAllocator),
		pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	lines := make([][]string, 1+table.NumRows())
	for c := range int(table.NumCols()) {
		lines[0] = append(lines[0], table.Schema().Field(c).Name)
		line := 1
		for _, chunk := range table.Column(c).Data().Chunks() {
			for i := range chunk.Len() {
				text := ""
				if times, ok := chunk.(*array.Timestamp); chunk.IsNull(i) {
				} else if ok {
					text = time.UnixMicro(int64(times.Value(i))).UTC().Format(time.RFC3339Nano)
				} else {
					text = fmt.Sprint(chunk.GetOneForMarshal(i))
				}
				lines[line] = append(lines[line], text)
				line++
			}
		}
	}
	return lines
}

// What can't be read whole isn't left behind.
func TestParquetIsWholeOrNot(t *testing.T) {
	serve(t, &apitest.Engine{FlowsFail: fmt.Errorf("table went away")})
	dir := t.TempDir()
	if r := gardu(t, "flows", "--parquet", filepath.Join(dir, "flows.parquet")); r.code != exitFailed || !strings.Contains(r.stderr, "table went away") {
		t.Errorf("%+v", r)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if r := gardu(t, "flows", "--parquet", "x", "-o", "csv"); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "flows", "--parquet", filepath.Join(dir, "no", "x")); r.code != exitFailed {
		t.Errorf("%+v", r)
	}
}
