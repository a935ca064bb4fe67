package top

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
)

// Print writes a frame as plain text: its time, totals, verdicts, and a table of the groups that were asked for, or why there is none.
func Print(w io.Writer, f Frame, o Options, width int) error {
	s := screen{frame: f, at: o.At, choice: choice{filter: o.Filter, group: o.Group}}
	out := bufio.NewWriter(w)
	when := f.Until.Format(time.RFC3339)
	if s.past() {
		when = s.pastTime()
	}
	fmt.Fprintf(out, "%s  %s  %s", when, bits(f.Total.Bytes), packets(f.Total.Packets))
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
		header, rows := drawTable(groupColumns(s.keys(), f.Total.Bytes), f.Groups, width)
		write(header)
		for _, row := range rows {
			write(row)
		}
	} else {
		fmt.Fprintln(out, s.nothing())
	}
	fmt.Fprintln(out)
	return out.Flush()
}
