package history

import (
	"fmt"
	"strings"
)

// What the file says it is.
const (
	applicationID = 0x67_61_72_64 // "gard"
	version       = 3
)

// tableNames and the columns of their ends.
var (
	tableNames = [tableCount]string{"totals", "sources", "destinations", "pairs"}
	endColumns = [tableCount]string{"", "src", "dst, dport", "src, dst, dport"}
)

const countColumns = "flows, packets, bytes, packets_reply, bytes_reply"

// columns of a table after seconds, time and n.
func columns(table int) string {
	if endColumns[table] == "" {
		return "kind, " + countColumns
	}
	return endColumns[table] + ", kind, " + countColumns
}

// endCount is how many columns the ends of a table take.
func endCount(table int) int {
	return len(strings.FieldsFunc(endColumns[table], func(r rune) bool { return r == ',' }))
}

// sampleColumn says that of so many packets one was counted. Files of version 2 have none.
const sampleColumn = "sample INTEGER NOT NULL DEFAULT 1"

// schema is the whole file.
func schema() string {
	var b strings.Builder
	b.WriteString(`
CREATE TABLE levels ( -- what is whole: of intervals of so many seconds, those that begin at since or later
	seconds INTEGER PRIMARY KEY,
	since INTEGER NOT NULL
) STRICT;
CREATE TABLE kinds ( -- NULL: not known, of kinds that are added up
	id INTEGER PRIMARY KEY,
	proto INTEGER, vlan INTEGER, verdict TEXT NOT NULL, reason TEXT, rule TEXT, service TEXT, backend TEXT, interface TEXT,
	used INTEGER NOT NULL, -- a time that isn't long before that of its last row
	` + sampleColumn + `
) STRICT;
CREATE INDEX kinds_by_value ON kinds (rule, service, backend, interface, reason, verdict, proto, vlan);
`)
	types := map[string]string{"src": "TEXT", "dst": "TEXT", "dport": "INTEGER"}
	for t, name := range tableNames {
		fmt.Fprintf(&b, "CREATE TABLE %s (\n\tseconds INTEGER NOT NULL, time INTEGER NOT NULL, n INTEGER NOT NULL,\n\t", name)
		for _, column := range strings.Split(columns(t), ", ") {
			if kind, end := types[column]; end {
				fmt.Fprintf(&b, "%s %s, ", column, kind)
				continue
			}
			fmt.Fprintf(&b, "%s INTEGER NOT NULL, ", column)
		}
		b.WriteString("\n\tPRIMARY KEY (seconds, time, n)\n) WITHOUT ROWID, STRICT;\n")
	}
	fmt.Fprintf(&b, "PRAGMA application_id = %d;\nPRAGMA user_version = %d;\n", applicationID, version)
	return b.String()
}

// SQL of a table.
func selectSQL(table int) string {
	return fmt.Sprintf("SELECT %s FROM %s WHERE seconds = ? AND time >= ? AND time < ?", columns(table), tableNames[table])
}

func deleteSQL(table int) string {
	return fmt.Sprintf("DELETE FROM %s WHERE seconds = ? AND time >= ? AND time < ?", tableNames[table])
}

func insertSQL(table int) string {
	all := columns(table)
	return fmt.Sprintf("INSERT INTO %s (seconds, time, n, %s) VALUES (?, ?, ?%s)", tableNames[table], all,
		strings.Repeat(", ?", 1+strings.Count(all, ",")))
}
