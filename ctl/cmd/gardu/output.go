package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// format is how a reader prints: the value of -o.
type format string

const (
	formatTable  format = "table"
	formatWide   format = "wide"
	formatJSON   format = "json"
	formatNDJSON format = "ndjson"
	formatYAML   format = "yaml"
	formatCSV    format = "csv"
)

var formats = []string{"table", "wide", "json", "ndjson", "yaml", "csv"}

// String, Set and Type make a format a flag.
func (f *format) String() string { return string(*f) }

func (f *format) Set(text string) error {
	if !slices.Contains(formats, text) {
		return fmt.Errorf("it is one of %s", strings.Join(formats, ", "))
	}
	*f = format(text)
	return nil
}

func (f *format) Type() string { return "FORMAT" }

func (f format) human() bool { return f == formatTable || f == formatWide }

// outputFlag gives a reader its -o.
func (a *app) outputFlag(cmd *cobra.Command) *cobra.Command {
	a.format = formatTable
	cmd.Flags().VarP(&a.format, "output", "o", strings.Join(formats, ", "))
	complete := cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

// column is one column of a table and of CSV.
type column[T any] struct {
	name  string
	wide  bool // only with wide, and in CSV
	value func(*T) any
}

// Values of a column, besides strings, numbers and what prints itself: how they look in a table, their plain form in CSV.
type (
	size    uint64        // bytes: 4.2 GB
	bitRate float64       // bits a second: 4.2 Gbit/s
	lapse   time.Duration // 1.2ms; in CSV seconds; 0: not known
	styled  struct {
		text  string
		style style
	}
)

// printRows prints a list in the chosen format. noun is what it is a list of.
func printRows[T any](a *app, noun string, rows []T, columns []column[T]) error {
	return printEach(a, noun, columns, func(yield func(T) error) error {
		for i := range rows {
			if err := yield(rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// printEach is printRows for lists that may be very long: rows are printed as they come, tables by pages.
func printEach[T any](a *app, noun string, columns []column[T], each func(yield func(T) error) error) error {
	out := bufio.NewWriter(a.stdout)
	add, end := listWriter(a, out, columns)
	some := false
	err := each(func(row T) error {
		some = true
		return add(&row)
	})
	switch {
	case err != nil: // what is there isn't all, and doesn't look so
	case !some && a.format.human():
		a.warnf("no %s\n", noun)
	default:
		err = end()
	}
	return errors.Join(err, out.Flush())
}

// listWriter prints a list in the chosen format, row by row.
func listWriter[T any](a *app, out *bufio.Writer, columns []column[T]) (add func(*T) error, end func() error) {
	some := false
	switch a.format {
	case formatTable, formatWide:
		t := newTable(out, a.color, shown(a, columns))
		return t.add, t.end
	case formatNDJSON, formatCSV:
		return lineWriter(a, out, columns), func() error { return nil }
	case formatYAML:
		return func(row *T) error {
				some = true
				text, err := json.Marshal([]*T{row})
				if err != nil {
					return err
				}
				return writeYAML(out, text)
			}, func() error {
				if some {
					return nil
				}
				return writeYAML(out, []byte("[]"))
			}
	}
	var text bytes.Buffer
	encoder := lineEncoder(&text)
	encoder.SetIndent("  ", "  ")
	before := "[\n  "
	return func(row *T) error {
			text.Reset()
			if err := encoder.Encode(row); err != nil {
				return err
			}
			out.WriteString(before)
			some, before = true, ",\n  "
			_, err := out.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
			return err
		}, func() error {
			after := "\n]\n"
			if !some {
				after = "[]\n"
			}
			_, err := out.WriteString(after)
			return err
		}
}

// lineWriter prints a row as it comes in the chosen format; CSV has a header before the first, also if there is none.
func lineWriter[T any](a *app, out *bufio.Writer, columns []column[T]) func(*T) error {
	switch a.format {
	case formatNDJSON:
		encoder := lineEncoder(out)
		return func(e *T) error { return encoder.Encode(e) }
	case formatCSV:
		rows := csv.NewWriter(out) // whose buffer is out
		var names []string
		for _, c := range columns {
			names = append(names, strings.ReplaceAll(c.name, " ", "_"))
		}
		rows.Write(names)
		return func(e *T) error {
			var record []string
			for _, c := range columns {
				record = append(record, plain(c.value(e)))
			}
			return rows.Write(record)
		}
	}
	return func(e *T) error { // columns don't line up with what is to come
		var parts []string
		for _, c := range columns {
			if text, look, _ := cell(c.value(e)); (!c.wide || a.format == formatWide) && text != "-" {
				parts = append(parts, look.paint(a.color, text))
			}
		}
		_, err := fmt.Fprintln(out, strings.Join(parts, gap))
		return err
	}
}

// shown are the columns of a table in the chosen format.
func shown[T any](a *app, columns []column[T]) []column[T] {
	return slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool { return c.wide && a.format != formatWide })
}

// printValue prints a single object; human prints it for people.
func printValue(a *app, value any, human func() error) error {
	if a.format.human() {
		return human()
	}
	switch a.format {
	case formatJSON:
		encoder := lineEncoder(a.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case formatNDJSON:
		return lineEncoder(a.stdout).Encode(value)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if a.format == formatCSV {
		return writeFlatCSV(a.stdout, text)
	}
	return writeYAML(a.stdout, text)
}

// lineEncoder writes a JSON value a line and leaves > as it is: packets are full of them.
func lineEncoder(w io.Writer) *json.Encoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder
}

// writeYAML turns JSON, which is YAML in flow style, into block style. Keys keep their order.
func writeYAML(w io.Writer, text []byte) error {
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return err
	}
	blockStyle(&node)
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(&node); err != nil {
		return err
	}
	return encoder.Close()
}

func blockStyle(node *yaml.Node) {
	if node.Style &= yaml.TaggedStyle; len(node.Content) == 0 && node.Kind != yaml.ScalarNode {
		node.Style = yaml.FlowStyle // {} and []
	}
	for _, child := range node.Content {
		blockStyle(child)
	}
}

// writeFlatCSV prints an object as lines of key and value: interfaces.0.name,eth0.
func writeFlatCSV(w io.Writer, text []byte) error {
	var node yaml.Node // keeps the order of keys, which a map doesn't
	if err := yaml.Unmarshal(text, &node); err != nil {
		return err
	}
	out := csv.NewWriter(w)
	out.Write([]string{"key", "value"})
	flatten(out, "", node.Content[0])
	out.Flush()
	return out.Error()
}

func flatten(out *csv.Writer, path string, node *yaml.Node) {
	under := func(name string) string { return strings.TrimPrefix(path+"."+name, ".") }
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			flatten(out, under(node.Content[i].Value), node.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, child := range node.Content {
			flatten(out, under(strconv.Itoa(i)), child)
		}
	default:
		out.Write([]string{path, node.Value})
	}
}

// plain is a value as a machine reads it.
func plain(value any) string {
	switch v := value.(type) {
	case styled:
		return v.text
	case size:
		return strconv.FormatUint(uint64(v), 10)
	case bitRate:
		return strconv.FormatFloat(float64(v), 'f', 0, 64)
	case lapse:
		if v == 0 {
			return ""
		}
		return strconv.FormatFloat(time.Duration(v).Seconds(), 'f', -1, 64)
	case time.Time:
		if v.IsZero() {
			return ""
		}
		return v.Format(time.RFC3339Nano)
	}
	return fmt.Sprint(value)
}

// cell is a value in a table; numbers are aligned to the right.
func cell(value any) (text string, look style, right bool) {
	switch v := value.(type) {
	case styled:
		return printable(v.text), v.style, false
	case size:
		return bytesText(uint64(v)), plainStyle, true
	case bitRate:
		return rateText(float64(v)), plainStyle, true
	case lapse:
		if v == 0 {
			return "-", dim, true
		}
		return time.Duration(v).Round(time.Microsecond).String(), plainStyle, true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), plainStyle, true
	case uint64, int, uint32, uint16, uint8:
		return fmt.Sprint(v), plainStyle, true
	case time.Time:
		if v.IsZero() {
			return "-", dim, false
		}
		return v.Format(time.RFC3339), plainStyle, false
	}
	text = printable(fmt.Sprint(value))
	if text == "" {
		return "-", dim, false
	}
	return text, plainStyle, false
}

// printable keeps what others wrote from moving the cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

const gap = "  "

func writeTable[T any](w io.Writer, color bool, rows []T, columns []column[T]) error {
	t := newTable(w, color, columns)
	for i := range rows {
		if err := t.add(&rows[i]); err != nil {
			return err
		}
	}
	return t.end()
}

// table lines its columns up: over all rows, or of very many over those so far, page by page.
type table[T any] struct {
	out     *bufio.Writer
	color   bool
	columns []column[T]
	widths  []int
	rights  []bool
	lines   [][]tableCell // of the page
}

type tableCell struct {
	text  string
	style style
}

// tablePage is how many rows are looked at before the first is printed. Their text takes some megabytes.
const tablePage = 10_000

func newTable[T any](w io.Writer, color bool, columns []column[T]) *table[T] {
	t := &table[T]{out: bufio.NewWriter(w), color: color, columns: columns, widths: make([]int, len(columns)), rights: make([]bool, len(columns))}
	var header []tableCell
	for j, c := range columns {
		header = append(header, tableCell{strings.ToUpper(c.name), bold})
		t.widths[j] = utf8.RuneCountInString(c.name)
	}
	t.lines = append(t.lines, header)
	return t
}

func (t *table[T]) add(row *T) error {
	line := make([]tableCell, len(t.columns))
	for j, c := range t.columns {
		text, look, right := cell(c.value(row))
		line[j] = tableCell{text, look}
		t.widths[j] = max(t.widths[j], utf8.RuneCountInString(text))
		t.rights[j] = t.rights[j] || right
	}
	if t.lines = append(t.lines, line); len(t.lines) < tablePage {
		return nil
	}
	return t.end()
}

// end prints what is left of the page.
func (t *table[T]) end() error {
	for _, line := range t.lines {
		var b strings.Builder
		for j, e := range line {
			pad := strings.Repeat(" ", t.widths[j]-utf8.RuneCountInString(e.text))
			text := e.style.paint(t.color, e.text)
			switch {
			case t.rights[j]:
				b.WriteString(pad + text)
			default:
				b.WriteString(text + pad)
			}
			b.WriteString(gap)
		}
		fmt.Fprintln(t.out, strings.TrimRight(b.String(), " "))
	}
	t.lines = t.lines[:0]
	return t.out.Flush()
}
