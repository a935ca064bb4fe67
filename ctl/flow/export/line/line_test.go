package line

import (
	"encoding/csv"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
)

var epoch = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// names gives every id the same name.
type names string

func (n names) Rule(uint32) string      { return string(n) }
func (n names) Service(uint16) string   { return string(n) }
func (n names) Backend(uint16) string   { return string(n) }
func (n names) Interface(uint32) string { return string(n) }

func web() flow.Report {
	return flow.Report{
		Flow: flow.Flow{
			Record: flow.Record{
				Key:     flow.Key{Src: netip.MustParseAddrPort("198.51.100.7:40000"), Dst: netip.MustParseAddrPort("[2001:db8::10]:443"), Proto: 6, VLAN: 12},
				Packets: 1000, Bytes: 90000, First: epoch, Last: epoch.Add(90 * time.Second),
				Verdict: abi.VerdictForward, Reason: abi.ReasonForward, Rule: 17, Service: 3, Backend: 2, Ifindex: 4,
				TCPFlags: 0x1b, TTLMin: 60, TTLMax: 63, DSCP: 46, Retransmits: 2, State: abi.FlowStateEstablished,
			},
			PacketsReply: 2000, BytesReply: 2_900_000, TCPFlagsReply: 0x12, IfindexReply: 5, ServerRTT: 1500 * time.Microsecond,
		},
		Since: epoch.Add(time.Minute), Until: epoch.Add(2*time.Minute + time.Millisecond),
		Delta: flow.Count{Packets: 10, Bytes: 900}, DeltaReply: flow.Count{Packets: 20, Bytes: 29000}, End: flow.EndFIN,
	}
}

func TestNDJSON(t *testing.T) {
	r := web()
	const want = `{"since":"2026-11-26T12:01:00Z","until":"2026-11-26T12:02:00.001Z","src":"198.51.100.7","dst":"2001:db8::10","sport":40000,"dport":443,` +
		`"proto":"tcp","packets":10,"bytes":900,"packets_reply":20,"bytes_reply":29000,"first":"2026-11-26T12:00:00Z","last":"2026-11-26T12:01:30Z",` +
		`"verdict":"forward","reason":"forward","rule":"n","service":"n","backend":"n","state":"established","end":"fin","flags":"SAPF","flags_reply":"SA",` +
		`"interface":"n","interface_reply":"n","vlan":12,"server_rtt":0.0015,"retransmits":2,"ttl_min":60,"ttl_max":63,"dscp":46,"sample":1}` + "\n"
	if got := string(NDJSON(nil, &r, names("n"))); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestCSV(t *testing.T) {
	r := web()
	const want = "2026-11-26T12:01:00Z,2026-11-26T12:02:00.001Z,198.51.100.7,2001:db8::10,40000,443,tcp,10,900,20,29000,2026-11-26T12:00:00Z,2026-11-26T12:01:30Z," +
		"forward,forward,n,n,n,established,fin,SAPF,SA,n,n,12,0.0015,0,2,0,60,63,0,0,46,0,1\n"
	if got := string(CSV(nil, &r, names("n"))); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if got := strings.Count(string(CSVHeader()), ","); got != strings.Count(want, ",") {
		t.Errorf("the header has %d commas, a line %d", got, strings.Count(want, ","))
	}
}

// Whatever something is called, a JSON and a CSV reader find it again, on one line.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"", "eth0", `a"b`, "a,b", "a\nb", "=1+1", "a\\b", "ü", "\xff", "\x7f", "\u2028"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		r := web()
		var object map[string]any
		text := NDJSON(nil, &r, names(name))
		if err := json.Unmarshal(text, &object); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if want := strings.ToValidUTF8(name, ""); object["rule"] != want && strings.ToValidUTF8(name, "x") == name {
			t.Errorf("%q became %q", want, object["rule"])
		}
		if strings.Count(string(text), "\n") != 1 {
			t.Errorf("%q is not a line", text)
		}
		rows, err := csv.NewReader(strings.NewReader(string(CSVHeader()) + string(CSV(nil, &r, names(name))))).ReadAll()
		if err != nil || len(rows) != 2 || len(rows[0]) != len(rows[1]) {
			t.Fatalf("%v in %q", err, rows)
		}
		if got := rows[1][15]; got != strings.ReplaceAll(name, "\r\n", "\n") { // which is how the reader reads a line's end
			t.Errorf("%q became %q", name, got)
		}
	})
}

func BenchmarkNDJSON(b *testing.B) {
	r := web()
	var text []byte
	for b.Loop() {
		text = NDJSON(text[:0], &r, names("a-name"))
	}
}
