package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

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
}

func (a *app) explainCommand() *cobra.Command {
	var q question
	cmd := a.outputFlag(&cobra.Command{
		Use:   "explain PACKET | --pcap FILE",
		Short: "Send one packet through the programs, without side effects, and tell its way",
		Long: `Judges one packet by the very programs that judge the live ones, on a copy beside
them: nothing is counted, remembered or sent. Tells each step, the rule, service and
backend, the reason, and the frames that would leave.

A PACKET is text (gardu help packet) or comes from a capture. With -c another
configuration is asked than the applied one; that needs root, but no daemon.`,
		Example: `  gardu explain 'tcp 198.51.100.7:40000 > 192.0.2.10:443 syn'
  gardu explain -i eth1 'icmp 192.0.2.1 > 192.0.2.2 echo-request'
  gardu explain --pcap trace.pcapng --packet 17 -o json
  sudo gardu explain -c new.yaml 'udp [2001:db8::1]:53 > [2001:db8::2]:4000'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			frame, err := q.frame(strings.Join(args, " "))
			if err != nil {
				return err
			}
			answer, err := a.answer(cmd, q, frame)
			if err != nil {
				return err
			}
			return printValue(a, answer, func() error {
				a.printExplanation(frame, &answer)
				return nil
			})
		},
	})
	cmd.Flags().StringVar(&q.capture, "pcap", "", "take the packet from this pcap or pcapng `FILE`")
	cmd.Flags().IntVar(&q.packet, "packet", 1, "packet number `N` of the file, from 1")
	cmd.Flags().StringVarP(&q.config, "config", "c", "", "ask the configuration in `FILE`, not the one in force")
	cmd.Flags().StringVarP(&q.ifname, "interface", "i", "", "the `INTERFACE` that receives it (default: the first)")
	return cmd
}

// frame returns the packet that the question is about.
func (q question) frame(text string) ([]byte, error) {
	switch {
	case text == "" && q.capture == "":
		return nil, usage("no packet: give one as text, or --pcap FILE")
	case text != "" && q.capture != "":
		return nil, usage("a packet as text or --pcap, not both")
	case q.packet < 1:
		return nil, usage("--packet %d: packets are counted from 1", q.packet)
	case q.capture != "":
		return captured(q.capture, q.packet)
	}
	frame, err := pkt.Parse(text)
	if err != nil {
		return nil, &usageError{err.Error(), "packet"}
	}
	return frame, nil
}

// captured returns packet number n of a capture, from 1.
func captured(path string, n int) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	capture, err := pkt.NewCapture(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := 1; ; i++ {
		packet, err := capture.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s holds %s, there is no number %d", path, plural(i-1, "packet"), n)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if i < n {
			continue
		}
		if packet.Length > len(packet.Frame) {
			return nil, fmt.Errorf("%s: the capture holds only %d of the %d bytes of packet %d", path, len(packet.Frame), packet.Length, n)
		}
		return packet.Frame, nil
	}
}

func (a *app) answer(cmd *cobra.Command, q question, frame []byte) (answer api.Explanation, err error) {
	if q.config != "" {
		return a.explainOffline(q.config, q.ifname, frame)
	}
	err = a.ask(func(c *client.Client) error {
		answer, err = c.Explain(cmd.Context(), api.ExplainRequest{Frame: frame, Interface: q.ifname})
		return err
	})
	return answer, err
}

// printExplanation tells a packet's way to people.
func (a *app) printExplanation(frame []byte, e *api.Explanation) {
	a.printf("%s  on %s\n\n", bold.paint(a.color, pkt.Summary(frame)), orElse(printable(e.Interface), "any interface"))
	width := 0
	for _, step := range e.Steps {
		width = max(width, len(step.Step))
	}
	for _, step := range e.Steps {
		a.printf("  %s  %s\n", dim.paint(a.color, fmt.Sprintf("%-*s", width, step.Step)), printable(step.Result))
	}
	a.printf("\n%s, %s", verdictStyle(e.Verdict).paint(a.color, e.Verdict), e.Reason)
	if e.Help != "" {
		a.printf(": %s", e.Help)
	}
	a.printf("\n")
	for _, part := range []struct{ name, value string }{{"rule", e.Rule}, {"service", e.Service}, {"backend", e.Backend}} {
		if part.value != "" {
			a.printf("  %-7s  %s\n", part.name, printable(part.value))
		}
	}
	for _, out := range e.Out {
		a.printf("\nleaves by %s, %d bytes:\n  %s\n", printable(out.Interface), len(out.Hex), printable(out.Text))
		if a.format == formatWide {
			a.printf("  %s\n", strings.ReplaceAll(strings.TrimSpace(hex.Dump(out.Hex)), "\n", "\n  "))
		}
	}
}

// packetTopic is `gardu help packet`.
func packetTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "packet",
		Short: "How to write a packet: tcp 198.51.100.7:40000 > 192.0.2.10:443 syn",
		Long:  strings.TrimSpace(pkt.Help()),
	}
}
