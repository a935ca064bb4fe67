package ipfix

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
	"gardu/ctl/flow/export/exporttest"
)

var epoch = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// names makes names of ids. Backends 1 to 9 are at 10.0.0.ID, 10 to 19 at 2001:db8:2::ID.
type names struct{ suffix string }

func (n names) Rule(id uint32) string {
	if id == uint32(abi.DeciderDefault) {
		return ""
	}
	return fmt.Sprintf("rule-%d%s", id, n.suffix)
}
func (n names) Service(id uint16) string        { return fmt.Sprintf("service-%d%s", id, n.suffix) }
func (n names) Backend(id uint16) string        { return fmt.Sprintf("backend-%d%s", id, n.suffix) }
func (n names) Interface(ifindex uint32) string { return fmt.Sprintf("eth%d%s", ifindex, n.suffix) }
func (n names) BackendAddress(id uint16) netip.Addr {
	switch {
	case id == 0 || id >= 20:
		return netip.Addr{}
	case id >= 10:
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%d", id))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", id))
}

// web is a connection through a balanced service.
func web() flow.Report {
	return flow.Report{
		Flow: flow.Flow{
			Record: flow.Record{
				Key:     flow.Key{Src: netip.MustParseAddrPort("198.51.100.7:40000"), Dst: netip.MustParseAddrPort("192.0.2.10:443"), Proto: 6, VLAN: 12},
				Packets: 1000, Bytes: 90000, First: epoch, Last: epoch.Add(90 * time.Second),
				Verdict: abi.VerdictForward, Reason: abi.ReasonForward, Rule: 17, Service: 3, Backend: 2, Ifindex: 4,
				TCPFlags: 0x1b, TTLMin: 60, TTLMax: 63, DSCP: 46,
			},
			PacketsReply: 2000, BytesReply: 2_900_000, TCPFlagsReply: 0x13, TTLMinReply: 64, TTLMaxReply: 64, DSCPReply: 10, IfindexReply: 5,
		},
		Since: epoch.Add(time.Minute), Until: epoch.Add(2 * time.Minute),
		Delta: flow.Count{Packets: 10, Bytes: 900}, DeltaReply: flow.Count{Packets: 20, Bytes: 29000}, End: flow.EndFIN,
	}
}

// encoderTo is an encoder whose messages a collector takes.
func encoderTo(c *exporttest.Decoder, limit int) *Encoder {
	e := &Encoder{Domain: 7, Limit: limit}
	e.Send = func(m Message) error {
		if len(m.Data) > limit {
			c.Errorf("a message of %d bytes, limit %d", len(m.Data), limit)
		}
		c.Take(m.Data)
		return nil
	}
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantFacts compares elements of a record: "id" or "-id" of the other direction, and the value.
func wantFacts(t testing.TB, values exporttest.Values, want map[int]string) {
	t.Helper()
	for id, text := range want {
		if got := values.Text(uint16(max(id, -id)), id < 0); got != text {
			t.Errorf("element %d: %s, want %s", id, got, text)
		}
	}
}

func TestReport(t *testing.T) {
	c := exporttest.New(t)
	e := encoderTo(c, 1400)
	must(t, e.Refresh(epoch, Losses{Reports: 3, Count: flow.Count{Packets: 40, Bytes: 5000}}))
	rest, err := e.Reports(epoch, []flow.Report{web()}, names{})
	must(t, err)
	if len(rest) != 0 || len(c.Flows) != 1 {
		t.Fatalf("%d reports are left, %d were decoded", len(rest), len(c.Flows))
	}
	at := func(d time.Duration) string { return fmt.Sprint(epoch.Add(d).UnixMilli()) }
	wantFacts(t, c.Flows[0], map[int]string{
		sourceIPv4Address: "198.51.100.7", destinationIPv4Address: "192.0.2.10", sourceTransportPort: "40000", destinationTransportPort: "443",
		protocolIdentifier: "6", vlanID: "12", ipClassOfService: "184", tcpControlBits: "27", minimumTTL: "60", maximumTTL: "63",
		ingressInterface: "4", egressInterface: "0", flowStartMilliseconds: at(time.Minute), flowEndMilliseconds: at(90 * time.Second),
		packetDeltaCount: "10", octetDeltaCount: "900", -packetDeltaCount: "20", -octetDeltaCount: "29000",
		-ipClassOfService: "40", -tcpControlBits: "19", -minimumTTL: "64", -maximumTTL: "64", -ingressInterface: "5",
		biflowDirection: "1", flowEndReason: "3", forwardingStatus: "64", selectorID: "17",
		applicationID: fmt.Sprint(6<<24 | 3), ipNextHopIPv4Address: "10.0.0.2", sourceIPv6Address: "absent",
	})
	want := []map[int]string{
		{observationDomainID: "7", samplingInterval: "1"},
		{observationDomainID: "7", selectorAlgorithm: "1", samplingPacketInterval: "1", samplingPacketSpace: "0"},
		{exportingProcessID: "7", notSentFlowTotalCount: "3", notSentPacketTotalCount: "40", notSentOctetTotalCount: "5000"},
		{selectorID: "17", selectorName: "rule-17"},
		{ingressInterface: "4", interfaceName: "eth4"},
		{ingressInterface: "5", interfaceName: "eth5"},
		{applicationID: fmt.Sprint(6<<24 | 3), applicationName: "service-3"},
		{applicationID: fmt.Sprint(6<<24 | 3), ipNextHopIPv4Address: "10.0.0.2", virtualStationName: "backend-2"},
	}
	if len(c.Options) != len(want) {
		t.Fatalf("%d option records, want %d", len(c.Options), len(want))
	}
	for i := range want {
		wantFacts(t, c.Options[i], want[i])
	}
}

// Handshake times are told in ntop's milliseconds, of half the way, and FastIP's microseconds, of all.
func TestHandshakeTimes(t *testing.T) {
	for _, test := range []struct {
		server, client         time.Duration
		toServer, toClient, us uint32
	}{
		{0, 0, 0, 0, 0},
		{85 * time.Microsecond, 30 * time.Microsecond, 0, 0, 115},
		{12 * time.Millisecond, 3 * time.Millisecond, 6, 2, 15000},
		{2 * time.Hour, 0, 3_600_000, 0, math.MaxUint32}, // more than fits
	} {
		c := exporttest.New(t)
		e := encoderTo(c, 1400)
		must(t, e.Refresh(epoch, Losses{}))
		report := web()
		report.ServerRTT, report.ClientRTT = test.server, test.client
		_, err := e.Reports(epoch, []flow.Report{report}, names{})
		must(t, err)
		got := [3]uint32{c.Flows[0].NumberOf(ntopPEN, serverLatency), c.Flows[0].NumberOf(ntopPEN, clientLatency), c.Flows[0].NumberOf(fastipPEN, handshakeRTTUsec)}
		if got != [3]uint32{test.toServer, test.toClient, test.us} {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

// Before records whose numbers are of a sample the collector is told so, and after them that they are whole again.
func TestSampling(t *testing.T) {
	c := exporttest.New(t)
	e := encoderTo(c, 1400)
	must(t, e.Refresh(epoch, Losses{}))
	whole, sampled := web(), web()
	sampled.Sample = 100
	for _, r := range []flow.Report{whole, sampled, sampled, whole} {
		if rest, err := e.Reports(epoch, []flow.Report{r}, names{}); err != nil || len(rest) > 0 {
			t.Fatal(rest, err)
		}
	}
	var told []exporttest.Values
	for _, option := range c.Options {
		if option.Text(selectorAlgorithm, false) != "absent" || option.Text(samplingInterval, false) != "absent" {
			told = append(told, option)
		}
	}
	every := map[int]string{observationDomainID: "7", selectorAlgorithm: "1", samplingPacketInterval: "1", samplingPacketSpace: "0"}
	one, hundred := map[int]string{observationDomainID: "7", samplingInterval: "1"}, map[int]string{observationDomainID: "7", samplingInterval: "100"}
	random := map[int]string{observationDomainID: "7", selectorAlgorithm: "3", samplingSize: "1", samplingPopulation: "100"}
	want := []map[int]string{one, every, hundred, random, one, every}
	if len(told) != len(want) {
		t.Fatalf("told %d times how packets are sampled, want %d", len(told), len(want))
	}
	for i := range want {
		wantFacts(t, told[i], want[i])
	}
}

func TestVariants(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*flow.Report)
		want   map[int]string
	}{
		"sent by the box": {func(r *flow.Report) { r.Out = true }, map[int]string{ingressInterface: "0", egressInterface: "4"}},
		"echo":            {func(r *flow.Report) { r.Proto = 1 }, map[int]string{sourceTransportPort: "0", destinationTransportPort: "0"}},
		"lasts":           {func(r *flow.Report) { r.End = flow.EndNone }, map[int]string{flowEndReason: "2"}},
		"idle":            {func(r *flow.Report) { r.End = flow.EndIdle }, map[int]string{flowEndReason: "1"}},
		"reset":           {func(r *flow.Report) { r.End = flow.EndRST }, map[int]string{flowEndReason: "3"}},
		"forced":          {func(r *flow.Report) { r.End = flow.EndForced }, map[int]string{flowEndReason: "4"}},
		"evicted":         {func(r *flow.Report) { r.End = flow.EndEvicted }, map[int]string{flowEndReason: "5"}},
		"dropped": {func(r *flow.Report) {
			r.Verdict, r.Reason, r.Service, r.Backend, r.Rule = abi.VerdictDrop, abi.ReasonRuleDrop, 0, 0, 0
		},
			map[int]string{forwardingStatus: "129", applicationID: "absent", ipNextHopIPv4Address: "absent", selectorID: "0"}},
		"malformed":  {func(r *flow.Report) { r.Verdict, r.Reason = abi.VerdictDrop, abi.ReasonMalformed }, map[int]string{forwardingStatus: "128"}},
		"no backend": {func(r *flow.Report) { r.Verdict, r.Reason, r.Backend = abi.VerdictDrop, abi.ReasonNoBackend, 0 }, map[int]string{forwardingStatus: "131", ipNextHopIPv4Address: "0.0.0.0"}},
		"IPv6 backend": {func(r *flow.Report) { r.Backend = 13 },
			map[int]string{ipNextHopIPv6Address: "2001:db8:2::13", ipNextHopIPv4Address: "absent"}},
		"IPv6": {func(r *flow.Report) {
			r.Src, r.Dst = netip.MustParseAddrPort("[2001:db8::7]:40000"), netip.MustParseAddrPort("[2001:db8::10]:443")
		}, map[int]string{sourceIPv6Address: "2001:db8::7", destinationIPv6Address: "2001:db8::10", sourceIPv4Address: "absent"}},
		"quiet since":  {func(r *flow.Report) { r.Since = r.Last.Add(time.Second) }, map[int]string{flowEndMilliseconds: fmt.Sprint(epoch.Add(91 * time.Second).UnixMilli())}},
		"before times": {func(r *flow.Report) { r.Since, r.Last = time.Time{}, time.Time{} }, map[int]string{flowStartMilliseconds: "0", flowEndMilliseconds: "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := exporttest.New(t)
			e := encoderTo(c, MinMessage)
			report := web()
			test.change(&report)
			must(t, e.Refresh(epoch, Losses{}))
			_, err := e.Reports(epoch, []flow.Report{report}, names{})
			must(t, err)
			wantFacts(t, c.Flows[0], test.want)
		})
	}
}

// Names are told once, again when they change, and again after each refresh.
func TestNamesAreToldWhenTheyAreNew(t *testing.T) {
	c := exporttest.New(t)
	e := encoderTo(c, 1400)
	told := func(n names) (texts []string) {
		before := len(c.Options)
		_, err := e.Reports(epoch, []flow.Report{web(), web()}, n)
		must(t, err)
		for _, values := range c.Options[before:] {
			for _, id := range []uint16{selectorName, applicationName, virtualStationName, interfaceName} {
				if text := values.Text(id, false); text != "absent" {
					texts = append(texts, text)
				}
			}
		}
		return texts
	}
	must(t, e.Refresh(epoch, Losses{}))
	all := []string{"rule-17", "eth4", "eth5", "service-3", "backend-2"}
	if got := told(names{}); !slices.Equal(got, all) {
		t.Errorf("told at first: %q", got)
	}
	if got := told(names{}); got != nil {
		t.Errorf("told again: %q", got)
	}
	if got := told(names{suffix: "-new"}); len(got) != 5 || !strings.HasSuffix(got[4], "-new") {
		t.Errorf("told after a change: %q", got)
	}
	must(t, e.Refresh(epoch, Losses{}))
	if got := told(names{}); !slices.Equal(got, all) {
		t.Errorf("told after a refresh: %q", got)
	}
	if got := told(names{suffix: strings.Repeat("x", 300)}); len(got) != 5 || len(got[0]) != maxName {
		t.Errorf("names that are too long: %d of %d bytes", len(got), len(got[0]))
	}
}

// What no message that was sent holds comes back, without what one does.
func TestRestAfterAnError(t *testing.T) {
	broken := errors.New("broken")
	sent, messages := 0, 0
	e := &Encoder{Limit: MinMessage, Send: func(m Message) error {
		if messages++; messages > 12 {
			return broken
		}
		sent += len(m.Reports)
		return nil
	}}
	e.told = map[name]string{}
	reports := make([]flow.Report, 100)
	for i := range reports {
		reports[i] = web()
		reports[i].Delta.Packets = uint64(i)
	}
	rest, err := e.Reports(epoch, reports, names{})
	if !errors.Is(err, broken) || sent == 0 || len(rest) != len(reports)-sent || rest[0].Delta.Packets != uint64(sent) {
		t.Errorf("%v after %d reports, %d are left", err, sent, len(rest))
	}
}

// random makes reports of all kinds.
func random(r *rand.Rand) flow.Report {
	addr := func(six bool) netip.Addr {
		if six {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(r.Uint32())})
		}
		return netip.AddrFrom4([4]byte{198, 51, 100, byte(r.Uint32())})
	}
	six := r.IntN(2) == 0
	report := flow.Report{
		Flow: flow.Flow{
			Record: flow.Record{
				Key: flow.Key{Src: netip.AddrPortFrom(addr(six), uint16(r.Uint32())), Dst: netip.AddrPortFrom(addr(six), uint16(r.Uint32())),
					Proto: uint8(r.Uint32()), VLAN: uint16(r.IntN(4096)), Out: r.IntN(2) == 0},
				First: epoch, Last: epoch.Add(time.Duration(r.Int64N(1e12))),
				Verdict: abi.Verdict(r.IntN(5)), Reason: abi.Reason(r.IntN(31)), Rule: uint32(r.IntN(3)) * 16,
				Service: uint16(r.IntN(3)), Ifindex: uint32(r.IntN(5)), TCPFlags: uint8(r.Uint32()),
				TTLMin: uint8(r.Uint32()), TTLMax: uint8(r.Uint32()), DSCP: uint8(r.IntN(64)),
			},
			IfindexReply: uint32(r.IntN(5)),
			ServerRTT:    time.Duration(r.Int64N(1e9)), ClientRTT: time.Duration(r.Int64N(1e9)),
		},
		Since: epoch.Add(time.Duration(r.Int64N(1e12))),
		Delta: flow.Count{Packets: r.Uint64(), Bytes: r.Uint64()}, DeltaReply: flow.Count{Packets: r.Uint64(), Bytes: r.Uint64()},
		End: flow.End(r.IntN(flow.Ends)),
	}
	if report.Service > 0 {
		report.Backend = uint16(r.IntN(22))
	}
	return report
}

// Every end of a flow has a word in IPFIX.
func TestEndReasons(t *testing.T) {
	for i, reason := range endReasons {
		if reason == 0 {
			t.Errorf("end %q has none", flow.End(i))
		}
	}
}

// Whatever is reported and however large messages may be, an independent decoder reads it back.
func FuzzEncoder(f *testing.F) {
	f.Add(uint64(1), uint16(MinMessage), uint8(10))
	f.Add(uint64(2), uint16(1400), uint8(200))
	f.Add(uint64(3), uint16(MaxMessage), uint8(255))
	f.Fuzz(func(t *testing.T, seed uint64, limit uint16, count uint8) {
		r := rand.New(rand.NewPCG(seed, 0))
		c := exporttest.New(t)
		e := encoderTo(c, max(MinMessage, int(limit)))
		must(t, e.Refresh(epoch, Losses{Reports: r.Uint64()}))
		reports := make([]flow.Report, count)
		for i := range reports {
			reports[i] = random(r)
		}
		rest, err := e.Reports(epoch, reports, names{})
		must(t, err)
		if len(rest) != 0 || len(c.Flows) != len(reports) {
			t.Fatalf("%d of %d reports were decoded", len(c.Flows), len(reports))
		}
		for i := range reports {
			want := map[int]string{}
			for _, f := range templateOf(&record{&reports[i], hopOf(&record{Report: &reports[i]}, names{})}).fields {
				id, reverse := int(f.id), f.enterprise == reversePEN
				if reverse {
					id = -id
				}
				b := f.put(nil, &record{&reports[i], hopOf(&record{Report: &reports[i]}, names{})})
				if f.length != uint16(len(b)) {
					t.Fatalf("element %d has %d bytes, its template says %d", id, len(b), f.length)
				}
				if f.enterprise != 0 && !reverse {
					if got := c.Flows[i].NumberOf(f.enterprise, f.id); got != order.Uint32(b) {
						t.Errorf("element %d of enterprise %d: %d, want %d", f.id, f.enterprise, got, order.Uint32(b))
					}
					continue
				}
				want[id] = exporttest.Values{{ID: f.id, Reverse: reverse}: b}.Text(f.id, reverse)
			}
			wantFacts(t, c.Flows[i], want)
			v := c.Flows[i]
			got := []uint64{v.Number(packetDeltaCount, false), v.Number(octetDeltaCount, false), v.Number(packetDeltaCount, true), v.Number(octetDeltaCount, true)}
			d, back := reports[i].Delta, reports[i].DeltaReply
			if !slices.Equal(got, []uint64{d.Packets, d.Bytes, back.Packets, back.Bytes}) {
				t.Errorf("counts %v of %+v %+v", got, d, back)
			}
		}
	})
}

func BenchmarkReports(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	reports := make([]flow.Report, 1000)
	for i := range reports {
		reports[i] = random(r)
	}
	size := 0
	e := &Encoder{Limit: 1400, Send: func(m Message) error { size += len(m.Data); return nil }}
	if err := e.Refresh(epoch, Losses{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := e.Reports(epoch, reports, names{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(reports)), "ns/report")
	b.ReportMetric(float64(size)/float64(b.N*len(reports)), "B/report")
}
