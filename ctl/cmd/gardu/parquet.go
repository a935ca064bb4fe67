package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"gardu/ctl/parquet"
)

// parquetHelp is what --parquet takes.
const parquetHelp = "write all columns to `FILE` (-: standard output) for engines such as DuckDB and ClickHouse, instead of printing"

// writeParquet writes the rows that each yields. A file is there once it is whole.
func writeParquet[T any](a *app, path string, columns []column[T], each func(yield func(T) error) error) error {
	if path == "-" {
		return parquetRows(a.stdout, columns, each)
	}
	partial := path + ".partial"
	file, err := os.Create(partial)
	if err != nil {
		return err
	}
	err = errors.Join(parquetRows(file, columns, each), file.Close())
	if err == nil {
		err = os.Rename(partial, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return nil
}

func parquetRows[T any](to io.Writer, columns []column[T], each func(yield func(T) error) error) error {
	var kinds []parquet.Column
	var empty T
	for _, c := range columns {
		kind, _ := exact(c.value(&empty))
		kinds = append(kinds, parquet.Column{Name: strings.ReplaceAll(c.name, " ", "_"), Kind: kind})
	}
	out := bufio.NewWriter(to)
	file := parquet.New(out, kinds)
	values := make([]any, len(columns))
	err := each(func(row T) error {
		for i, c := range columns {
			_, values[i] = exact(c.value(&row))
		}
		return file.Write(values)
	})
	if err == nil { // what isn't whole better can't be read
		err = errors.Join(file.Close(), out.Flush())
	}
	return err
}

// exact is a value of a column as a Parquet file has it; nil where there is none.
func exact(value any) (parquet.Kind, any) {
	switch v := value.(type) {
	case styled:
		return parquet.Text, some(v.text)
	case string:
		return parquet.Text, some(v)
	case bool:
		return parquet.Yes, v
	case bitRate:
		return parquet.Decimal, float64(v)
	case lapse:
		return parquet.Decimal, some(time.Duration(v).Seconds())
	case time.Time:
		return parquet.Time, some(v)
	case size:
		return exact(uint64(v))
	case uint64:
		return parquet.Number, int64(min(v, math.MaxInt64))
	case int:
		return parquet.Number, int64(v)
	case uint32:
		return parquet.Number, int64(v)
	case uint16:
		return parquet.Number, int64(v)
	case uint8:
		return parquet.Number, int64(v)
	}
	return parquet.Text, some(fmt.Sprint(value))
}

// some is a value, or nil when it is nothing.
func some[T comparable](value T) any {
	if value == *new(T) {
		return nil
	}
	return value
}
