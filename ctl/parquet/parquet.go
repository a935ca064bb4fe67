package parquet

import (
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/parquet-go/parquet-go"
)

const (
	groupRows = 1 << 16 // of a row group, which waits in memory until it is whole
	pageBytes = 1 << 16
)

// Kind is what the values of a column are.
type Kind int

const (
	Text    Kind = iota // string
	Number              // int64
	Decimal             // float64
	Yes                 // bool
	Time                // time.Time, in microseconds of UTC
)

// Column names the values of one kind. A value may be nil: there is none.
type Column struct {
	Name string
	Kind Kind
}

// types have pointers, for values that may be missing. Texts repeat, so they are written once and named by number.
var types = map[Kind]struct {
	of  reflect.Type
	tag string
}{
	Text:    {reflect.TypeFor[*string](), ",optional,dict"},
	Number:  {reflect.TypeFor[*int64](), ",optional"},
	Decimal: {reflect.TypeFor[*float64](), ",optional"},
	Yes:     {reflect.TypeFor[*bool](), ",optional"},
	Time:    {reflect.TypeFor[*time.Time](), ",optional,timestamp(microsecond:utc)"},
}

// Writer writes one file.
type Writer struct {
	columns []Column
	file    *parquet.Writer
	rows    []parquet.Row // one, used again
}

// New begins a file. Columns have different names without commas, and at least one there is.
func New(to io.Writer, columns []Column) *Writer {
	var fields []reflect.StructField
	for i, c := range columns {
		t := types[c.Kind]
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("Column%d", i), Type: t.of, Tag: reflect.StructTag(fmt.Sprintf("parquet:%q", c.Name+t.tag))})
	}
	schema := parquet.NewSchema("gardu", parquet.SchemaOf(reflect.New(reflect.StructOf(fields)).Interface()))
	file := parquet.NewWriter(to, schema, parquet.Compression(&parquet.Zstd), parquet.MaxRowsPerRowGroup(groupRows), parquet.PageBufferSize(pageBytes),
		parquet.CreatedBy("gardu", "", ""))
	return &Writer{columns: columns, file: file, rows: []parquet.Row{make(parquet.Row, len(columns))}}
}

// Write adds a row: a value for each column, of its kind.
func (w *Writer) Write(values []any) error {
	if len(values) != len(w.columns) {
		return fmt.Errorf("a row of %d values for %d columns", len(values), len(w.columns))
	}
	for i, value := range values {
		v, defined, err := valueOf(w.columns[i], value)
		if err != nil {
			return err
		}
		w.rows[0][i] = v.Level(0, defined, i)
	}
	_, err := w.file.WriteRows(w.rows)
	return err
}

// valueOf also says whether there is one, as Parquet does: 1 or 0.
func valueOf(c Column, value any) (parquet.Value, int, error) {
	switch v := value.(type) {
	case nil:
		return parquet.NullValue(), 0, nil
	case string:
		if c.Kind == Text {
			return parquet.ByteArrayValue([]byte(v)), 1, nil
		}
	case int64:
		if c.Kind == Number {
			return parquet.Int64Value(v), 1, nil
		}
	case float64:
		if c.Kind == Decimal {
			return parquet.DoubleValue(v), 1, nil
		}
	case bool:
		if c.Kind == Yes {
			return parquet.BooleanValue(v), 1, nil
		}
	case time.Time:
		if c.Kind == Time {
			return parquet.Int64Value(v.UnixMicro()), 1, nil
		}
	}
	return parquet.Value{}, 0, fmt.Errorf("column %s takes no %T", c.Name, value)
}

// Close ends the file, which can't be read before.
func (w *Writer) Close() error { return w.file.Close() }
