package parquet

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

var columns = []Column{{"src", Text}, {"packets", Number}, {"rate", Decimal}, {"other", Yes}, {"first", Time}}

// row gives every value, and every missing one, in some row.
func row(i int) []any {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_901_000, time.UTC)
	all := []any{fmt.Sprintf("192.0.2.%d, \"ü\"", i%250), int64(i) << 40, float64(i) / 3, i%2 == 1, at.Add(time.Duration(i) * time.Hour)}
	if missing := i % 7; missing < len(all) {
		all[missing] = nil
	}
	return all
}

// Another implementation than the one that writes reads the same.
func TestAnotherReaderReadsTheSame(t *testing.T) {
	const rows = groupRows + 1000 // more than a row group
	var written bytes.Buffer
	w := New(&written, columns)
	for i := range rows {
		if err := w.Write(row(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := file.NewParquetReader(bytes.NewReader(written.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.NumRowGroups() != 2 {
		t.Errorf("%d row groups, want 2", r.NumRowGroups())
	}
	reader, err := pqarrow.NewFileReader(r, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	table, err := reader.ReadTable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	if table.NumRows() != rows || int(table.NumCols()) != len(columns) {
		t.Fatalf("%d rows of %d columns, want %d of %d", table.NumRows(), table.NumCols(), rows, len(columns))
	}
	for c := range columns {
		if got := table.Schema().Field(c).Name; got != columns[c].Name {
			t.Errorf("column %d is %s, want %s", c, got, columns[c].Name)
		}
		i := 0
		for _, chunk := range table.Column(c).Data().Chunks() {
			for k := range chunk.Len() {
				if got, want := read(t, chunk, k), row(i)[c]; got != want {
					t.Fatalf("row %d of %s is %v, want %v", i, columns[c].Name, got, want)
				}
				i++
			}
		}
	}
}

func read(t *testing.T, values any, i int) any {
	t.Helper()
	switch a := values.(type) {
	case *array.String:
		if a.IsValid(i) {
			return a.Value(i)
		}
	case *array.Int64:
		if a.IsValid(i) {
			return a.Value(i)
		}
	case *array.Float64:
		if a.IsValid(i) {
			return a.Value(i)
		}
	case *array.Boolean:
		if a.IsValid(i) {
			return a.Value(i)
		}
	case *array.Timestamp:
		if a.IsValid(i) {
			return time.UnixMicro(int64(a.Value(i))).UTC()
		}
	default:
		t.Fatalf("values are a %T", values)
	}
	return nil
}

func TestRowsThatDontFitAreRefused(t *testing.T) {
	w := New(io.Discard, columns)
	for _, values := range [][]any{{"a"}, {int64(1), int64(1), 1.0, true, time.Time{}}, {"a", "b", nil, nil, nil}, {"a", 1, nil, nil, nil}} {
		if w.Write(values) == nil {
			t.Errorf("%v was written", values)
		}
	}
}

// A million rows take no more memory than some row groups.
func TestMemoryIsConstant(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	w := New(io.Discard, columns)
	var most uint64
	for i := range 10 * groupRows {
		if err := w.Write(row(i)); err != nil {
			t.Fatal(err)
		}
		if i%groupRows == groupRows/2 {
			runtime.GC()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			if i > 2*groupRows && now.HeapAlloc > most*3/2 {
				t.Fatalf("%d MB after %d rows, %d MB before", now.HeapAlloc>>20, i, most>>20)
			}
			most = max(most, now.HeapAlloc)
		}
	}
}
