package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/expr"
	"gardu/ctl/pkt"
)

func (a *app) captureCommand() *cobra.Command {
	var query api.CaptureQuery
	var path string
	cmd := a.outputFlag(&cobra.Command{
		Use:   "capture [-w FILE.pcapng] [EXPR]",
		Short: "Show packets as they are handled, with their verdict, also those that XDP drops",
		Long: `Shows packets as they are handled, each with what became of it: also those that are
dropped at XDP, which no other tool sees; and what gardu sends to a backend or answers,
as it came and as it leaves. What the kernel sends is seen where gardu is at tc egress.
Health checks that go through their service's path are seen on the loopback, where they
start, and as they leave. Of copies that rules mirror it is said which interfaces got
one; a file has each as a packet of its own.

EXPR picks packets by what they are and what became of them, and is evaluated in the
kernel; gardu help expr explains it. -w writes a pcapng file that Wireshark opens, with
verdicts as packet comments and with the names of interfaces.

As long as somebody captures, programs that can do so are in force, which takes them a
little longer with each packet; before and after that it costs nothing. What was lost is
told at the end. Up to 16 captures run at once.`,
		Example: `  gardu capture 'verdict drop'                       what is dropped, and why
  gardu capture -n 10 'service web and backend b1'   ten packets, before and after
  gardu capture -w web.pcapng 'service web'          until interrupted
  gardu capture -w - | wireshark -k -i -             live in Wireshark
  gardu capture -o ndjson 'host 198.51.100.7' | jq .reason`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			query.Filter = strings.Join(args, " ")
			if _, err := expr.ParsePacket(query.Filter); err != nil {
				return &usageError{err.Error(), "expr"}
			}
			if query.Snap < 0 || query.Snap > api.CaptureSnap {
				return usage("--snap %d: a frame is cut to 1 to %d bytes", query.Snap, api.CaptureSnap)
			}
			if a.format == formatJSON || a.format == formatYAML {
				return usage("a capture goes with table, wide, ndjson and csv, not %s", a.format)
			}
			return a.capture(cmd.Context(), query, path)
		},
	})
	cmd.Flags().StringVarP(&path, "write", "w", "", "write a pcapng `FILE` instead of showing packets; -: to standard output")
	cmd.Flags().IntVarP(&query.Snap, "snap", "s", 0, "take at most so many `BYTES` of a frame (default 16384)")
	cmd.Flags().Uint64VarP(&query.Count, "count", "n", 0, "end after `N` packets")
	return cmd
}

// capture shows or writes packets until there are enough or it is interrupted.
func (a *app) capture(ctx context.Context, query api.CaptureQuery, path string) (err error) {
	show, done, err := a.captureTo(path)
	if err != nil {
		return err
	}
	var totals api.CaptureTotals
	began := false
	err = a.ask(func(c *client.Client) error {
		// The capture outlives an interrupt for as long as it takes to hear of what is on its way, and of losses.
		end, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		return c.Capture(end, query, func(item api.CaptureItem) error {
			switch {
			case item.Began != "":
				began = true
				a.warnf("capturing\n")
				stop := context.AfterFunc(ctx, func() {
					limit := time.AfterFunc(captureEnd, cancel)
					if err := c.EndCapture(end, item.Began); err != nil {
						limit.Stop()
						cancel()
					}
				})
				context.AfterFunc(end, func() { stop() })
			case item.Captured != nil:
				totals.Captured++
				return show(item.Captured)
			case item.Totals != nil:
				totals = *item.Totals
			}
			return nil
		})
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) { // the daemon doesn't answer any more
		err = nil
	}
	err = errors.Join(err, done())
	if began {
		a.warnf("%s\n", captureEndText(totals))
	}
	return err
}

// captureEnd is how long the end of a capture may take after an interrupt.
const captureEnd = 10 * time.Second

func captureEndText(t api.CaptureTotals) string {
	text := thousands(t.Captured) + " packets captured"
	if t.Captured == 1 {
		text = "1 packet captured"
	}
	for _, loss := range []struct {
		count uint64
		why   string
	}{
		{t.Lost, "lost because the buffer was full"},
		{t.Refused, "left out because a CPU tells of at most 200,000 a second"},
		{t.Missed, "missed because this client was too slow"},
	} {
		if loss.count > 0 {
			text += fmt.Sprintf(", %s %s", thousands(loss.count), loss.why)
		}
	}
	if t.Lost+t.Refused+t.Missed == 0 {
		text += ", none lost"
	}
	return text
}

// captureTo returns what shows or writes a packet, and what ends that.
func (a *app) captureTo(path string) (show func(*api.Captured) error, done func() error, err error) {
	if path == "" {
		out := bufio.NewWriter(a.stdout)
		write := lineWriter(a, out, a.captureColumns())
		return func(c *api.Captured) error {
			c.Describe()
			if c.Out != nil {
				c.Out.Describe()
			}
			return errors.Join(write(c), out.Flush())
		}, out.Flush, nil
	}
	var to io.WriteCloser = nopCloser{a.stdout}
	if path == "-" && a.color {
		return nil, nil, usage("-w -: standard output is a terminal, and a capture is not for people to read")
	}
	if path != "-" {
		if to, err = os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil { // packets are nobody else's business
			return nil, nil, err
		}
	}
	w, err := pkt.NewWriter(to, "")
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return nil, nil, errors.Join(err, to.Close())
	}
	flushed := time.Now()
	show = func(c *api.Captured) error {
		if err := writeCaptured(w, c); err != nil || path != "-" && time.Since(flushed) < flushEvery {
			return err
		}
		flushed = time.Now()
		return w.Flush()
	}
	return show, func() error { return errors.Join(w.Flush(), to.Close()) }, nil
}

// flushEvery is how much of a file a client that is killed may lose.
const flushEvery = 100 * time.Millisecond

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// writeCaptured writes a packet as it came, its copies and, if gardu sends something instead, that.
func writeCaptured(w *pkt.Writer, c *api.Captured) error {
	before := pkt.Captured{Time: c.Time, Frame: c.Frame, Length: c.Length}
	if err := w.WriteOn(c.Interface, c.Direction == "out", before, captureComment(c)); err != nil {
		return err
	}
	for _, name := range c.Copies {
		if err := w.WriteOn(name, true, before, "copy sent by gardu: "+captureComment(c)); err != nil {
			return err
		}
	}
	if c.Out == nil {
		return nil
	}
	after := pkt.Captured{Time: c.Time, Frame: c.Out.Frame, Length: c.Out.Length}
	return w.WriteOn(c.Out.Interface, true, after, "sent by gardu: "+captureComment(c))
}

// captureComment is what became of a packet, in a line.
func captureComment(c *api.Captured) string {
	text := c.Verdict
	if c.Reason != "none" && c.Reason != c.Verdict {
		text += " (" + c.Reason + ")"
	}
	for _, part := range []struct{ name, value string }{{"rule", c.Rule}, {"service", c.Service}, {"backend", c.Backend}} {
		if part.value != "" {
			text += ", " + part.name + " " + part.value
		}
	}
	if c.Packets > 1 {
		text += fmt.Sprintf(", a bundle of %d packets", c.Packets)
	}
	return text
}

// captureTime is RFC 3339 with microseconds, always as many digits.
const captureTime = "2006-01-02T15:04:05.000000Z07:00"

func (a *app) captureColumns() []column[api.Captured] {
	out := func(get func(*api.CapturedOut) any) func(*api.Captured) any {
		return func(c *api.Captured) any {
			if c.Out == nil {
				return ""
			}
			return get(c.Out)
		}
	}
	columns := []column[api.Captured]{
		{"time", false, func(c *api.Captured) any { return c.Time.Format(captureTime) }},
		{"interface", false, func(c *api.Captured) any { return c.Interface }},
		{"direction", false, func(c *api.Captured) any { return c.Direction }},
		{"verdict", false, func(c *api.Captured) any { return styled{c.Verdict, verdictStyle(c.Verdict)} }},
		{"reason", false, func(c *api.Captured) any { return c.Reason }},
		{"rule", false, func(c *api.Captured) any { return c.Rule }},
		{"service", false, func(c *api.Captured) any { return c.Service }},
		{"backend", false, func(c *api.Captured) any { return c.Backend }},
	}
	if a.format == formatCSV {
		address := func(get func(*api.Captured) netip.Addr) func(*api.Captured) any {
			return func(c *api.Captured) any {
				if c.Proto == "" {
					return ""
				}
				return get(c)
			}
		}
		return append(columns, []column[api.Captured]{
			{"src", false, address(func(c *api.Captured) netip.Addr { return c.Src })},
			{"dst", false, address(func(c *api.Captured) netip.Addr { return c.Dst })},
			{"sport", false, func(c *api.Captured) any { return c.Sport }},
			{"dport", false, func(c *api.Captured) any { return c.Dport }},
			{"proto", false, func(c *api.Captured) any { return c.Proto }},
			{"length", false, func(c *api.Captured) any { return c.Length }},
			{"packets", false, func(c *api.Captured) any { return c.Packets }},
			{"packet", false, func(c *api.Captured) any { return c.Packet }},
			{"out_interface", false, out(func(o *api.CapturedOut) any { return o.Interface })},
			{"out_packet", false, out(func(o *api.CapturedOut) any { return o.Packet })},
			{"copies", false, func(c *api.Captured) any { return strings.Join(c.Copies, " ") }},
		}...)
	}
	return append(columns, column[api.Captured]{"packet", false, func(c *api.Captured) any {
		text := cmp.Or(c.Packet, "-")
		if len(c.Copies) > 0 {
			text += "  =>  copies to " + strings.Join(c.Copies, ", ")
		}
		return text + out(func(o *api.CapturedOut) any { return "  =>  " + o.Interface + " " + o.Packet })(c).(string)
	}})
}
