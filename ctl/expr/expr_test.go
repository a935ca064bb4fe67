package expr

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func sample() *Flow {
	return &Flow{
		Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.10"),
		Sport: 40000, Dport: 443, Proto: 6, Vlan: 12,
		Packets: 1500, Bytes: 2_500_000, Age: 10 * time.Second, Duration: 5 * time.Minute,
		Verdict: "forward", Reason: "forward", Service: "web", Backend: "b1", State: "established", Interface: "eth0",
		End: "fin", InterfaceReply: "eth1", ServerRTT: 2 * time.Millisecond, ClientRTT: 40 * time.Millisecond, Retransmits: 7, RetransmitsReply: 1,
		TTLMin: 57, TTLMax: 60, DSCP: 46,
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		text string
		want bool
	}{
		{"", true},
		{"  ", true},
		{"src in 198.51.100.0/24", true},
		{"src 198.51.100.7", true},
		{"src 198.51.100.8", false},
		{"src in 198.51.100.7/24", true}, // host bits are ignored
		{"src != 198.51.100.0/24", false},
		{"src 2001:db8::/32", false},
		{"dst 2001:db8::1, 192.0.2.10", true},
		{"host 192.0.2.10", true},
		{"host 198.51.100.7", true},
		{"host 203.0.113.1", false},
		{"host != 192.0.2.10", false},
		{"dport 443", true},
		{"dport=443", true},
		{"dport 80,443", true},
		{"dport in 80, 8000-8099", false},
		{"dport != 80, 443", false},
		{"dport 400-500", true},
		{"dport >= 443", true},
		{"dport > 443", false},
		{"dport<444", true},
		{"dport <= 442", false},
		{"port 40000", true},
		{"proto tcp", true},
		{"proto 6", true},
		{"proto udp,sctp", false},
		{"proto 1-6", true},
		{"vlan 12", true},
		{"interface eth0", true},
		{"verdict forward", true},
		{"not verdict pass", true},
		{"reason forward and service web and backend b1", true},
		{`rule ""`, true},
		{`rule != ""`, false},
		{`service "web"`, true},
		{"state new", false},
		{"packets > 1k", true},
		{"bytes >= 2.5M", true},
		{"bytes > 2.5M", false},
		{"packets 1000-2k", true},
		{"age < 1m", true},
		{"duration 5m", true},
		{"duration > 1h", false},
		{"interface_reply eth1 and end fin", true},
		{"server_rtt < 3ms and client_rtt 39ms-41ms", true},
		{"client_rtt > 40ms", false},
		{"retransmits > 5 and retransmits_reply < 2", true},
		{"ttl_min 57 and ttl_max < 64", true},
		{"dscp ef", true},
		{"dscp 0", false},
		{"src in 198.51.100.0/24 and dport 443 and not verdict pass", true},
		{"dport 80 or dport 443", true},
		{"dport 80 and dport 443 or proto tcp", true},
		{"dport 80 and (dport 443 or proto tcp)", false},
		{"not not dport 443", true},
		{"not dport 80 and dport 443", true},
		{"not (dport 443 or dport 80)", false},
	} {
		e, err := Parse(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := e.Match(sample()); got != c.want {
			t.Errorf("%s: got %v", c.text, got)
		}
		if e.String() != c.text {
			t.Errorf("%s: String is %q", c.text, e)
		}
	}
}

func TestZeroFlow(t *testing.T) {
	for _, text := range []string{"not src 0.0.0.0/0", "not dst ::/0", "dport 0", "packets 0", "proto != tcp"} {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if !e.Match(&Flow{}) {
			t.Errorf("%s doesn't hold for the zero flow", text)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		text    string
		offset  int
		message string
	}{
		{"dpotr 443", 0, `"dpotr" is not a key`},
		{"dport 443 annd verdict pass", 10, "this doesn't belong here"},
		{"dport", 5, "a value is missing"},
		{"dport 80,", 9, "a value is missing"},
		{"dport 65536", 6, `"65536" is not a value of dport`},
		{"dport 90-80", 6, `"90-80" is not a value of dport`},
		{"dport > 80-90", 8, `"80-90" is not a value of dport`},
		{"dport > 80,90", 10, "> takes one value"},
		{"port x", 5, `"x" is not a value of port`},
		{"src < 192.0.2.1", 4, "src has no order"},
		{"src 192.0.2.1/33", 4, `"192.0.2.1/33" is not a value of src`},
		{"src fe80::1%eth0", 4, `"fe80::1%eth0" is not a value of src`},
		{"verdict accept", 8, `"accept" is not a value of verdict`},
		{"dport @web-ports", 6, `"@web-ports" is not a value of dport`},
		{"proto 256", 6, `"256" is not a value of proto`},
		{"proto xyz", 6, `"xyz" is not a value of proto`},
		{"age 5", 4, `"5" is not a value of age`},
		{"age -5s", 4, `"-5s" is not a value of age`},
		{"bytes 1e30G", 6, `"1e30G" is not a value of bytes`},
		{"bytes NaNk", 6, `"NaNk" is not a value of bytes`},
		{"(dport 80", 9, "the parenthesis is not closed"},
		{"dport 80)", 8, "this doesn't belong here"},
		{"dport 80 and", 12, "something is missing at the end"},
		{"! dport 80", 0, `"!" is not a key`},
		{"dport\n80", 5, "a control character"},
		{strings.Repeat("(", 100), 64, "nested deeper than 64"},
		{strings.Repeat("x", 5000), 40, "the expression is longer than 4096 bytes"},
	} {
		_, err := Parse(c.text)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: error is %v", c.text, err)
			continue
		}
		if e.Offset != c.offset || e.Message != c.message {
			t.Errorf("%q: got %q at %d, want %q at %d", c.text, e.Message, e.Offset, c.message, c.offset)
		}
	}
}

func TestErrorText(t *testing.T) {
	_, err := Parse("dport 443 and\tverdict accept")
	want := `"accept" is not a value of verdict
  dport 443 and	verdict accept
               	        ^
allowed here: pass, drop, reject, redirect, forward`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// Every key has what help and completion print, and its own form of value is in its error.
func TestKeys(t *testing.T) {
	for _, key := range Keys() {
		if key.Name == "" || key.Help == "" || key.Values == "" {
			t.Errorf("incomplete: %+v", key)
		}
		if _, err := Parse(key.Name + " ("); err == nil || !strings.Contains(err.Error(), key.Values) {
			t.Errorf("%s: %v", key.Name, err)
		}
	}
}

func TestEvents(t *testing.T) {
	seen := &Flow{Src: netip.MustParseAddr("198.51.100.7"), Dport: 22, Verdict: "drop", Rule: "ssh", Kind: "log", Direction: "in", Length: 60}
	for text, want := range map[string]bool{
		"kind log and rule ssh":            true,
		"kind sample, shadow":              false,
		"direction in and length < 64":     true,
		"src 198.51.100.0/24 and dport 22": true,
		"verdict pass":                     false,
	} {
		e, err := ParseEvent(text)
		if err != nil {
			t.Fatal(err)
		}
		if e.Match(seen) != want {
			t.Errorf("%s: got %v", text, !want)
		}
	}
	for _, text := range []string{"bytes > 1k", "kind gone", "direction both"} {
		if _, err := ParseEvent(text); err == nil {
			t.Errorf("%s makes sense", text)
		}
	}
	if _, err := Parse("kind log"); err == nil {
		t.Error("flows have a kind")
	}
	for _, key := range EventKeys() {
		if key.Name == "" || key.Help == "" || key.Values == "" {
			t.Errorf("incomplete: %+v", key)
		}
	}
}

// Whatever the text, Parse gives a predicate that is total, or an error that points into the text.
func FuzzParse(f *testing.F) {
	f.Add("src in 198.51.100.0/24 and dport 443 and not verdict pass")
	f.Add(`(service "web" or rule != a,b) and bytes >= 2.5M`)
	f.Add("dport\x00 80")
	f.Add(`rule "`)
	f.Add("age 1s-2s or vlan <= 3")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if err == nil {
			again, err := Parse("not (" + text + ")")
			if err != nil && strings.TrimSpace(text) != "" && len(text) < maxLength-10 && strings.Count(text, `"`)%2 == 0 && !tooDeep(err) {
				t.Fatalf("%q parses, but not negated: %v", text, err)
			}
			for _, flow := range []*Flow{{}, sample()} {
				if got := e.Match(flow); err == nil && again.Match(flow) == got {
					t.Fatalf("%q and its negation are both %v", text, got)
				}
			}
			return
		}
		var bad *Error
		if !errors.As(err, &bad) {
			t.Fatalf("%q: %T", text, err)
		}
		if bad.Offset < 0 || bad.Offset > len(bad.Text) || bad.Error() == "" {
			t.Fatalf("%q: offset %d in %q", text, bad.Offset, bad.Text)
		}
	})
}

func tooDeep(err error) bool {
	var e *Error
	return errors.As(err, &e) && strings.HasPrefix(e.Message, "nested deeper")
}

// Of what isn't known, an expression holds possibly, certainly or not at all: as if all values had been tried.
func TestUnknown(t *testing.T) {
	for _, c := range []struct {
		text              string
		possible, certain bool
	}{
		{"", true, true},
		{"src 198.51.100.7", true, false},
		{"src != 198.51.100.7", true, false},
		{"not src 198.51.100.7", true, false},
		{"not not src 198.51.100.7", true, false},
		{"service web and src 198.51.100.7", true, false},
		{"service dns and src 198.51.100.7", false, false},
		{"service web or src 198.51.100.7", true, true},
		{"service dns or src 198.51.100.7", true, false},
		{"not (service web and src 198.51.100.7)", true, false},
		{"not (service dns and src 198.51.100.7)", true, true},
		{"not (service web or src 198.51.100.7)", false, false},
		{"not (not src 198.51.100.7 or service dns)", true, false},
		{"service web", true, true},
	} {
		e, err := Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		flow := sample()
		flow.Unknown = []string{"src", "host"}
		if possible, certain := e.Possible(flow), e.Certain(flow); possible != c.possible || certain != c.certain {
			t.Errorf("%s: possible %v, certain %v", c.text, possible, certain)
		}
		flow.Unknown = nil
		if want := e.Match(flow); e.Possible(flow) != want || e.Certain(flow) != want {
			t.Errorf("%s: of what is known, not what it is", c.text)
		}
	}
}

func TestUses(t *testing.T) {
	e, err := Parse("src 192.0.2.1 and not (dport 443 or src 192.0.2.2) and service web")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(e.Uses(), " "); got != "dport service src" {
		t.Errorf("it uses %q", got)
	}
}

func TestMayHold(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                     true,
		"kind drop":                            true,
		"kind up":                              false,
		"kind up, down":                        false,
		"not kind up":                          true,
		"not kind drop":                        false,
		"src 192.0.2.1":                        true,
		"not (src 192.0.2.1 and kind drop)":    true,
		"src 192.0.2.1 and kind up":            false,
		"src 192.0.2.1 or kind up":             true,
		"kind up or verdict drop and kind log": false,
	} {
		e, err := ParseEvent(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.MayHold("kind", "drop"); got != want {
			t.Errorf("%q may hold for a drop: %v", text, got)
		}
	}
}
