// Package line writes reports of flows as text, a line each: as a JSON object or as comma-separated values. The columns are those of
// `gardu flows -o ndjson`, but packets and bytes are what a report adds, from since to until: over all lines they sum up to the
// totals. End says why a report is a flow's last one: idle, fin, rst, evicted.
package line
