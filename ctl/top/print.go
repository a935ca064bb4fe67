package top

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Print writes a frame as plain text: totals, verdicts, and a table of the groups by the keys that they have.
func Print(w io.Writer, f Frame, keys []string, width int) error {
	s := screen{frame: f}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s  %s  %s", f.Until.Format("2006-01-02T15:04:05Z07:00"), bits(f.Total.Bytes), packets(f.Total.Packets))
	if sample := f.sample(); sample != "" {
		fmt.Fprint(out, "  ", sample)
	}
	write := func(l line) { fmt.Fprintln(out, strings.TrimRight(l.draw(width, noStyle), " ")) }
	for _, part := range []line{s.verdicts(), s.flowTable()} {
		if text := strings.TrimSpace(part.draw(part.width(), noStyle)); text != "" {
			fmt.Fprint(out, "  ", text)
		}
	}
	fmt.Fprintln(out)
	if len(f.Groups) > 0 {
		header, rows := drawTable(groupColumns(keys, f.Total.Bytes), f.Groups, width)
		write(header)
		for _, row := range rows {
			write(row)
		}
	}
	fmt.Fprintln(out)
	return out.Flush()
}
