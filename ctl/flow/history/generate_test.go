package history

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
)

// names stand for the ids that generated reports have.
type names struct{}

func (names) Rule(id uint32) string      { return word("rule", uint64(id)) }
func (names) Service(id uint16) string   { return word("service", uint64(id)) }
func (names) Backend(id uint16) string   { return word("backend", uint64(id)) }
func (names) Interface(id uint32) string { return word("eth", uint64(id)) }

func word(what string, id uint64) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprint(what, id)
}

// site makes the traffic of a site: a few clients talk much and most little, to some services and to the world.
type site struct {
	random  *rand.Rand
	clients *rand.Zipf
	servers *rand.Zipf
}

func newSite(seed uint64) *site {
	random := rand.New(rand.NewPCG(seed, seed))
	return &site{random, rand.NewZipf(random, 1.1, 8, 200_000), rand.NewZipf(random, 1.2, 4, 20_000)}
}

func address(network byte, n uint64) netip.Addr {
	if n%7 == 6 {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, network, 12: byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return netip.AddrFrom4([4]byte{network, byte(n >> 16), byte(n >> 8), byte(n)})
}

// report is one of a flow that ended at a time.
func (s *site) report(at time.Time) flow.Report {
	r := s.random
	client, server := s.clients.Uint64(), s.servers.Uint64()
	lasted := time.Duration(r.ExpFloat64() * float64(20*time.Second))
	var report flow.Report
	report.Src = netip.AddrPortFrom(address(198, client), uint16(32768+r.IntN(28000)))
	report.Dst = netip.AddrPortFrom(address(192, server), []uint16{443, 443, 443, 80, 53, 22, uint16(r.IntN(65536))}[r.IntN(7)])
	report.Proto = []uint8{6, 6, 6, 17, 1}[r.IntN(5)]
	report.First, report.Since = at.Add(-lasted), at.Add(-lasted)
	report.Last, report.Until = at, at.Add(10*time.Second)
	report.Delta = flow.Count{Packets: 1 + uint64(r.ExpFloat64()*20)}
	report.Delta.Bytes = report.Delta.Packets * uint64(40+r.IntN(1400))
	report.DeltaReply = flow.Count{Packets: r.Uint64N(30)}
	report.DeltaReply.Bytes = report.DeltaReply.Packets * uint64(40+r.IntN(1400))
	report.Ifindex, report.Verdict, report.Reason = 1+uint32(client%2), abi.VerdictPass, abi.ReasonDefaultPass
	switch {
	case server < 20:
		report.Service, report.Backend = uint16(1+server), uint16(1+server*8+client%8)
		report.Verdict, report.Reason = abi.VerdictForward, abi.ReasonForward
	case r.IntN(10) == 0:
		report.Rule, report.Verdict, report.Reason = uint32(1+r.IntN(30)), abi.VerdictDrop, abi.ReasonRuleDrop
		report.DeltaReply = flow.Count{}
	}
	return report
}

// reports are so many in the time before at.
func (s *site) reports(n int, at time.Time, span time.Duration) []flow.Report {
	all := make([]flow.Report, n)
	for i := range all {
		all[i] = s.report(at.Add(-time.Duration(s.random.Int64N(int64(span)))))
	}
	return all
}

func sumOf(reports []flow.Report) (sum Counts) {
	for i := range reports {
		sum = sum.Plus(countsOf(&reports[i]))
	}
	return sum
}

// address4 is the nth of a network.
func address4(t testing.TB, n int) netip.AddrPort {
	t.Helper()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 40000)
}
