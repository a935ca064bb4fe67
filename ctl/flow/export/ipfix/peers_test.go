package ipfix

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gardu/ctl/flow"
	"gardu/ctl/flow/export/exporttest"
)

// capture is a pcap file of messages in UDP datagrams.
func capture(t *testing.T, messages [][]byte) string {
	t.Helper()
	le := binary.LittleEndian
	const rawIP = 101
	file := le.AppendUint32(nil, 0xa1b2c3d4)
	file = le.AppendUint16(file, 2)
	file = le.AppendUint16(file, 4)
	file = append(file, make([]byte, 8)...)
	file = le.AppendUint32(file, 1<<16)
	file = le.AppendUint32(file, rawIP)
	for i, m := range messages {
		packet := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
		packet = order.AppendUint16(packet, 40000)
		packet = order.AppendUint16(packet, 4739)
		packet = order.AppendUint16(packet, uint16(8+len(m)))
		packet = order.AppendUint16(packet, 0)
		packet = append(packet, m...)
		order.PutUint16(packet[2:], uint16(len(packet)))
		file = le.AppendUint32(file, uint32(epoch.Unix()))
		file = le.AppendUint32(file, uint32(i))
		file = le.AppendUint32(file, uint32(len(packet)))
		file = le.AppendUint32(file, uint32(len(packet)))
		file = append(file, packet...)
	}
	path := filepath.Join(t.TempDir(), "export.pcap")
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// messages are those of all kinds of reports, some of them random. sample gives what one packet of counts.
func messages(t *testing.T, count, limit int, sample func(*rand.Rand) int) (all [][]byte, sent []flow.Report) {
	t.Helper()
	e := &Encoder{Domain: 1, Limit: limit, Send: func(m Message) error {
		all = append(all, bytes.Clone(m.Data))
		return nil
	}}
	r := rand.New(rand.NewPCG(4, 4))
	for range count {
		report := random(r)
		report.Delta = flow.Count{Packets: uint64(r.IntN(1e6)), Bytes: uint64(r.IntN(1e9))}
		report.DeltaReply = flow.Count{Packets: uint64(r.IntN(1e6)), Bytes: uint64(r.IntN(1e9))}
		report.Sample = sample(r)
		sent = append(sent, report)
	}
	if err := e.Refresh(epoch, Losses{Reports: 5}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Reports(epoch, sent, names{}); err != nil {
		t.Fatal(err)
	}
	return all, sent
}

func everyPacket(*rand.Rand) int { return 0 }

// Wireshark's dissector finds every record and nothing to complain about, of samples too.
func TestTshark(t *testing.T) {
	tshark := exporttest.Tool(t, "tshark", "tshark")
	sent, reports := messages(t, 300, 1400, func(r *rand.Rand) int { return r.IntN(3) * 100 })
	out, err := exec.Command(tshark, "-r", capture(t, sent), "-d", "udp.port==4739,cflow", "-T", "json", "-o", "udp.check_checksum:FALSE").Output()
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	for _, sign := range []string{"malformed", "_ws.expert", "Expert Info", "Unknown Field", "Enterprise Private", "No template found"} {
		if i := strings.Index(text, sign); i >= 0 {
			t.Errorf("tshark says %s: ...%s", sign, text[max(0, i-300):min(len(text), i+300)])
		}
	}
	var packets []struct {
		Source struct {
			Layers map[string]json.RawMessage `json:"layers"`
		} `json:"_source"`
	}
	if err := json.Unmarshal(out, &packets); err != nil {
		t.Fatal(err)
	}
	if len(packets) != len(sent) {
		t.Errorf("tshark found %d messages of %d", len(packets), len(sent))
	}
	for _, field := range []string{"cflow.flow_end_reason", "cflow.pie.ntop.client_nw_latency_ms", "cflow.pie.server_nw_latency_ms", "cflow.pie.fastip.tcp_handshake_rtt_usec"} {
		if n := strings.Count(text, `"`+field+`":`); n != len(reports) {
			t.Errorf("tshark found %s in %d records of flows, of %d", field, n, len(reports))
		}
	}
}

// What nfcapd stored is what was reported, flow by flow and to the unit.
func TestNfdump(t *testing.T) {
	n := exporttest.StartNfcapd(t, (*exec.Cmd).Start)
	conn, err := net.Dial("udp", n.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent, reports := messages(t, 300, 1400, everyPacket)
	for _, m := range sent {
		if _, err := conn.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for line := range strings.Lines(n.End("-6", "-N", "-q", "-o", "fmt:%sa;%da;%sp;%in;%out;%svln;%nh;%ipkt;%ibyt;%opkt;%obyt")) {
		got = append(got, strings.ReplaceAll(strings.TrimSpace(line), " ", ""))
	}
	var want []string
	for i := range reports {
		r := record{Report: &reports[i], hop: netip.IPv4Unspecified()}
		if r.Service != 0 {
			r.hop = hopOf(&r, names{})
		}
		want = append(want, fmt.Sprintf("%s;%s;%d;%d;%d;%d;%s;%d;%d;%d;%d", r.Src.Addr(), r.Dst.Addr(), port(&r, r.Src), where(&r, !r.Out), where(&r, r.Out),
			r.VLAN, r.hop, r.Delta.Packets, r.Delta.Bytes, r.DeltaReply.Packets, r.DeltaReply.Bytes))
	}
	if diff := firstDifference(got, want); diff != "" {
		t.Errorf("nfdump prints %d flows of %d; %s", len(got), len(want), diff)
	}
	// It doesn't count options, so it takes every message after some for one that follows a loss.
	if log := n.Said.String(); !strings.Contains(log, fmt.Sprintf("Flows: %d,", len(reports))) || !strings.Contains(log, "Bad Packets: 0") {
		t.Errorf("nfcapd says:\n%s", log)
	}
}

// nfcapd multiplies what is of a sample by what it was told, and takes what is whole for that.
func TestNfdumpUsesTheSampling(t *testing.T) {
	const sample = 100
	for _, of := range []int{sample, 0} {
		n := exporttest.StartNfcapd(t, (*exec.Cmd).Start)
		conn, err := net.Dial("udp", n.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sent, reports := messages(t, 20, 1400, func(*rand.Rand) int { return of })
		for _, m := range sent {
			if _, err := conn.Write(m); err != nil {
				t.Fatal(err)
			}
		}
		var got, want []string
		for line := range strings.Lines(n.End("-6", "-N", "-q", "-o", "fmt:%ipkt;%ibyt;%opkt;%obyt")) {
			got = append(got, strings.ReplaceAll(strings.TrimSpace(line), " ", ""))
		}
		for _, r := range reports {
			times := uint64(max(of, 1))
			want = append(want, fmt.Sprintf("%d;%d;%d;%d", times*r.Delta.Packets, times*r.Delta.Bytes, times*r.DeltaReply.Packets, times*r.DeltaReply.Bytes))
		}
		if diff := firstDifference(got, want); diff != "" {
			t.Errorf("sampled 1/%d: nfdump prints %d flows of %d; %s\n%s", of, len(got), len(want), diff, n.Said.String())
		}
	}
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("number %d: %q, want %q", i, got[min(i, len(got)):min(i+1, len(got))], want[min(i, len(want)):min(i+1, len(want))])
		}
	}
	return ""
}
