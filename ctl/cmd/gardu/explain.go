package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/pkt"
)

// question is what `gardu explain` was asked.
type question struct {
	capture string // a file
	packet  int    // of it, from 1
	config  string // not the applied one
	ifname  string

	out, asNewFlow, withFlow bool
	backend                  string
	time                     string
}

func (a *app) explainCommand() *cobra.Command {
	var q question
	cmd := a.outputFlag(&cobra.Command{
		Use:   "explain PACKET | --pcap FILE",
		Short: "Send one packet through the programs, without side effects, and tell its way",
		Long: `Judges one packet by the very programs that judge the live ones, on a copy beside
them: nothing is counted, remembered or sent. Tells each step, the rule, service and
backend, the reason, the frames that would leave, and how the rules before it fared.

A PACKET is text (gardu help packet) or comes from a capture. With -c another
configuration is asked than the applied one; that needs root, but no daemon.

What is known of the packet's flow counts (its record, so its backend; state;
translations), what limits have let through doesn't. To ask otherwise:
  --as-new-flow     nothing is known of flows and connections
  --with-flow       both sides have opened the packet's flow: its sender or, where the
                    first packet would be dropped, the other side has begun it
  --backend NAME    that flow is on this backend, whatever the ring says now
  --time TIME       it comes then: blocks have expired, connections are as old
  --out             the kernel sends it, by the interface, as it does with routed packets`,
		Example: `  gardu explain 'tcp 198.51.100.7:40000 > 192.0.2.10:443 syn'
  gardu explain -i eth1 'icmp 192.0.2.1 > 192.0.2.2 echo-request'
  gardu explain --pcap trace.pcapng --packet 17 -o json
  gardu explain --with-flow --time 10m 'tcp 198.51.100.7:40000 > 192.0.2.10:443 ack'
  sudo gardu explain -c new.yaml 'udp [2001:db8::1]:53 > [2001:db8::2]:4000'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			request, packet, err := q.request(strings.Join(args, " "), time.Now())
			if err != nil {
				return err
			}
			if missing := len(request.Frame) - len(packet.Frame); missing > 0 {
				a.warnf("the capture holds %d of the packet's %d bytes: it is judged with zeros for what its payload lacks\n", len(packet.Frame), packet.Length)
			}
			answer, err := a.answer(cmd, q.config, request)
			if err != nil {
				return err
			}
			return printValue(a, answer, func() error {
				a.printExplanation(packet.Text(), &answer)
				return nil
			})
		},
	})
	cmd.Flags().StringVar(&q.capture, "pcap", "", "take the packet from this pcap or pcapng `FILE`")
	cmd.Flags().IntVar(&q.packet, "packet", 1, "packet number `N` of the file, from 1")
	cmd.Flags().StringVarP(&q.config, "config", "c", "", "ask the configuration in `FILE`, not the one in force")
	cmd.Flags().StringVarP(&q.ifname, "interface", "i", "", "the `INTERFACE` that receives it, or sends it (default: the first)")
	cmd.Flags().BoolVar(&q.out, "out", false, "the kernel sends the packet, it isn't received")
	cmd.Flags().BoolVar(&q.asNewFlow, "as-new-flow", false, "as if nothing were known of flows and connections")
	cmd.Flags().BoolVar(&q.withFlow, "with-flow", false, "as if both sides had opened the packet's flow")
	cmd.Flags().StringVar(&q.backend, "backend", "", "as if the flow were on the backend `NAME` (with --with-flow)")
	cmd.Flags().StringVar(&q.time, "time", "", "as if it were that `TIME`: 10m (from now), 14:05, 2030-01-02 14:05")
	return cmd
}

// request is the question, for the daemon.
func (q question) request(text string, now time.Time) (request api.ExplainRequest, packet pkt.Captured, err error) {
	switch {
	case q.asNewFlow && q.withFlow:
		return request, packet, usage("--as-new-flow or --with-flow, not both")
	case q.backend != "" && !q.withFlow:
		return request, packet, usage("--backend %s: that of a flow; say --with-flow too", q.backend)
	}
	request = api.ExplainRequest{Interface: q.ifname, Out: q.out, AsNewFlow: q.asNewFlow, WithFlow: q.withFlow, Backend: q.backend}
	if q.time != "" {
		if request.At, err = parseLater(q.time, now); err != nil {
			return request, packet, usage("--time: %v", err)
		}
	}
	packet, err = q.frame(text)
	request.Frame = packet.Filled()
	return request, packet, err
}

// parseLater reads a time that is yet to come.
func parseLater(text string, now time.Time) (time.Time, error) {
	if later, ok := parseAgo(text); ok {
		return now.Add(later), nil
	}
	at, err := parseTime(text, now)
	if err != nil {
		return at, fmt.Errorf("%q is no time: say in how long (90m, 24h, 7d), when (14:05), or a date (2030-01-02 or \"2030-01-02 14:05\")", text)
	}
	if len(text) <= len("15:04:05") {
		at = at.AddDate(0, 0, 1) // that of the past day is what parseTime takes
	}
	if at.Before(now) {
		return at, fmt.Errorf("%s is over", text)
	}
	return at, nil
}

// frame returns the packet that the question is about.
func (q question) frame(text string) (packet pkt.Captured, err error) {
	switch {
	case text == "" && q.capture == "":
		return packet, usage("no packet: give one as text, or --pcap FILE")
	case text != "" && q.capture != "":
		return packet, usage("a packet as text or --pcap, not both")
	case q.packet < 1:
		return packet, usage("--packet %d: packets are counted from 1", q.packet)
	case q.capture != "":
		return captured(q.capture, q.packet)
	}
	frame, err := pkt.Parse(text)
	if err != nil {
		return packet, &usageError{err.Error(), "packet"}
	}
	return pkt.Captured{Frame: frame, Length: len(frame)}, nil
}

// captured returns packet number n of a capture, from 1.
func captured(path string, n int) (packet pkt.Captured, err error) {
	file, capture, err := openCapture(path)
	if err != nil {
		return packet, err
	}
	defer file.Close()
	for i := 1; ; i++ {
		packet, err = capture.Next()
		switch {
		case errors.Is(err, io.EOF):
			return packet, fmt.Errorf("%s holds %s, there is no number %d", path, plural(i-1, "packet"), n)
		case err != nil:
			return packet, fmt.Errorf("%s: %w", path, err)
		case i == n && !packet.HasHeaders():
			return packet, fmt.Errorf("%s: the capture holds only %d of the %d bytes of packet %d, not all of its headers: %s", path,
				len(packet.Frame), packet.Length, n, packet.Text())
		case i == n:
			return packet, nil
		}
	}
}

func (a *app) answer(cmd *cobra.Command, config string, request api.ExplainRequest) (answer api.Explanation, err error) {
	if config != "" {
		return a.explainOffline(config, request)
	}
	err = a.ask(func(c *client.Client) error {
		answer, err = c.Explain(cmd.Context(), request)
		return err
	})
	return answer, err
}

// printExplanation tells a packet's way to people.
func (a *app) printExplanation(packet string, e *api.Explanation) {
	screen := a.width()
	a.printf("%s  on %s\n\n", bold.paint(a.color, fold(packet, "", screen)), orElse(printable(e.Interface), "any interface"))
	width := 0
	for _, step := range e.Steps {
		width = max(width, len(step.Step))
	}
	for _, step := range e.Steps {
		a.printf("  %s  %s\n", dim.paint(a.color, fmt.Sprintf("%-*s", width, step.Step)), fold(printable(step.Result), strings.Repeat(" ", width+4), screen))
	}
	a.printTried(e)
	text := ""
	if e.Reason != e.Verdict {
		text = ", " + e.Reason
	}
	if e.Help != "" {
		text += ": " + e.Help
	}
	a.printf("\n%s%s\n", verdictStyle(e.Verdict).paint(a.color, e.Verdict), text)
	fact := func(name, value string) { a.printf("  %-7s  %s\n", name, fold(value, "           ", screen)) }
	if f := e.Flow; f != nil {
		fact("flow", printable(knownFlow(f)))
	}
	for _, part := range []struct{ name, value string }{{"rule", e.Rule}, {"service", e.Service}, {"backend", e.Backend}} {
		if part.value != "" {
			fact(part.name, printable(part.value))
		}
	}
	if b := e.Block; b != nil {
		text := fmt.Sprintf("%s, by %s", b.Prefix, orElse(b.Origin, "nobody who said so"))
		if b.Why != "" {
			text += ": " + b.Why
		}
		if !b.Expires.IsZero() {
			text += ", until " + b.Expires.Format(time.RFC3339)
		}
		fact("block", printable(text))
	}
	if s := e.Allow; s != nil {
		fact("allow", printable(fmt.Sprintf("%s is in %s of @%s%s", s.Field, s.Entry, s.Set, lineOf(s))))
	}
	if e.Ring != nil {
		fact("ring", fmt.Sprintf("slot %d of %d", e.Ring.Slot, e.Ring.Slots))
	}
	if c := e.Cost; c != nil {
		fact("cost", packetCost(c))
	}
	if e.Disagreement != "" {
		a.printf("\n%s\n", verdictStyle("drop").paint(a.color, printable(e.Disagreement)))
	}
	for _, out := range e.Out {
		a.printf("\nleaves by %s, %d bytes:\n  %s\n", printable(out.Interface), len(out.Hex), fold(printable(out.Text), "  ", screen))
		if a.format == formatWide {
			a.printf("  %s\n", strings.ReplaceAll(strings.TrimSpace(hex.Dump(out.Hex)), "\n", "\n  "))
		}
	}
}

// printTried tells how the rules fared that were asked.
func (a *app) printTried(e *api.Explanation) {
	if len(e.Rules) == 0 {
		return
	}
	a.printf("\n  %s\n", dim.paint(a.color, "rules that were asked"))
	width := 0
	for _, r := range e.Rules {
		width = max(width, len(printable(r.Rule)))
	}
	for _, r := range e.Rules {
		answer := "no"
		if r.Matched {
			answer = "yes"
		}
		margin := strings.Repeat(" ", 2+3+2+width+2)
		why, at := fold(printable(r.Why), margin, a.width()), printable(r.Pos.String())
		line := strings.TrimRight(fmt.Sprintf("  %-3s  %-*s  %s", answer, width, printable(r.Rule), why), " ")
		between := "  "
		if last := line[strings.LastIndexByte(line, '\n')+1:]; utf8.RuneCountInString(last)+len(between)+utf8.RuneCountInString(at) >= a.width() {
			between = "\n" + margin
		}
		a.printf("%s%s%s\n", line, between, dim.paint(a.color, at))
	}
	if e.OtherRules > 0 {
		a.printf("  and %s that came less near\n", plural(e.OtherRules, "other"))
	}
}

// lineOf is where an entry of a set is, behind a comma.
func lineOf(s *api.SetEntry) string {
	switch {
	case s.File == "":
		return ""
	case s.Line == 0:
		return fmt.Sprintf(", %s (%s)", s.File, s.NoLine)
	}
	return fmt.Sprintf(", %s:%d", s.File, s.Line)
}

// packetCost is what a packet takes, and how that was measured.
func packetCost(c *api.PacketCost) string {
	if c.Runs == 0 {
		return c.How
	}
	return fmt.Sprintf("%.0f ns, %s", c.Ns, c.How)
}

// knownFlow is what was known of the packet's flow, in a line.
func knownFlow(f *api.KnownFlow) string {
	text := f.State
	if f.Backend != "" {
		text += " on backend " + f.Backend
	}
	return fmt.Sprintf("%s since %s: %s this way, the last at %s", text, f.First.Format(time.RFC3339), plural(int(f.Packets), "packet"), f.Last.Format(time.RFC3339))
}

// packetTopic is `gardu help packet`.
func packetTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "packet",
		Short: "How to write a packet: tcp 198.51.100.7:40000 > 192.0.2.10:443 syn",
		Long:  strings.TrimSpace(pkt.Help()),
	}
}
