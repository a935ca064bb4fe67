package pkt_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"gardu/ctl/pkt"
	"gardu/ctl/pkt/verify"
)

// texts are written as Describe writes them.
var texts = []string{
	"tcp 198.51.100.7:40000 > 192.0.2.10:443 syn",
	"tcp 198.51.100.7:40000 > 192.0.2.10:443 fin psh ack seq 7 ackno 9 win 1024 tcpopt 01010101 len 3",
	"udp [2001:db8::1]:53 > [2001:db8::2]:4000",
	"udp 198.51.100.7:40000 > 192.0.2.10:443 data 0102030405 pad 13",
	"udp 198.51.100.7:40000 > 192.0.2.10:443 udplen 0 sum 0",
	"sctp 198.51.100.7:40000 > 192.0.2.10:443 vtag 77 len 4",
	"icmp 192.0.2.1 > 192.0.2.2 echo-request id 7 echoseq 1 data 616263",
	"icmp 192.0.2.1 > 192.0.2.2 42 code 3",
	"icmpv6 2001:db8::1 > 2001:db8::2 echo-request id 7",
	"icmpv6 2001:db8::1 > 2001:db8::2 too-big echoseq 1280 len 48",
	"ip 192.0.2.1 > 192.0.2.2 proto 50 len 20",
	"ip 2001:db8::1 > 2001:db8::2 proto 59",
	"tcp [2001:db8::1]:1 > [2001:db8::2]:2 syn ttl 3 dscp 46 ecn 1 label 74565",
	"tcp 198.51.100.7:1 > 192.0.2.10:2 syn ttl 3 dscp 46 ecn 1 ipid 9 df ipopt 94040000",
	"tcp 198.51.100.7:1 > 192.0.2.10:2 syn frag first",
	"tcp 198.51.100.7:1 > 192.0.2.10:2 syn frag later",
	"tcp [2001:db8::1]:1 > [2001:db8::2]:2 syn ipid 5 ext hbh frag 9+ ext dst",
	"tcp [2001:db8::1]:1 > [2001:db8::2]:2 syn ext hbh ext dst ext route ext ah frag 0 ext dst",
	"tcp 198.51.100.7:1 > 192.0.2.10:2 syn mac 02:00:00:00:00:07 > 02:00:00:00:00:08 qinq 10 vlan 20",
	"udp 198.51.100.7:1 > 224.0.0.251:5353 tag 0x9100 24586",
	"arp who-has 192.0.2.10 tell 192.0.2.1",
	"arp who-has 192.0.2.10 tell 0.0.0.0 hw 02:00:00:00:00:09 vlan 10",
	"arp reply 192.0.2.10 is-at 02:00:00:00:00:05 to 192.0.2.1",
	"nd who-has 2001:db8::10 tell 2001:db8::1",
	"nd who-has 2001:db8::10 tell 2001:db8::1 to 2001:db8::10 hw 02:00:00:00:00:07",
	"nd who-has 2001:db8::10 tell ::",
	"nd reply 2001:db8::10 is-at 02:00:00:00:00:05 to 2001:db8::1",
	"ether 0x88b5 data 0207",
	"ipip 10.0.0.1 > 10.0.0.11 df carries tcp 198.51.100.7:1 > 192.0.2.10:2 syn",
	"ipip 2001:db8::a > 2001:db8::b vlan 7 carries tcp 198.51.100.7:1 > 192.0.2.10:2 syn ttl 9",
	"ipip 10.0.0.1 > 10.0.0.11 carries udp [2001:db8::1]:53 > [2001:db8::2]:4000 len 4",
	"gue 10.0.0.1:50000 > 10.0.0.11:6080 df carries tcp 198.51.100.7:1 > 192.0.2.10:2 syn",
	"gue [2001:db8::a]:50000 > [2001:db8::b]:6080 vlan 7 carries udp [2001:db8::1]:53 > [2001:db8::2]:4000 len 4",
	"udp 10.0.0.1:50000 > 10.0.0.11:6080 data 01020304",
}

func TestDescribeIsTheInverseOfParse(t *testing.T) {
	for _, text := range texts {
		frame, err := pkt.Parse(text)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if got := pkt.Describe(frame); got != text {
			t.Errorf("wrote %q\n read %q", text, got)
		}
	}
}

// What a PACKET says is what gopacket reads. It knows neither chains of extension headers, nor an empty IPv6 packet,
// nor Ethernet types without a protocol, and wants a chunk in SCTP.
func TestFramesAreRight(t *testing.T) {
	unread := regexp.MustCompile("ext |udplen|proto 59|0x9100|sctp|ether")
	for _, text := range texts {
		if unread.MatchString(text) {
			continue
		}
		frame, err := pkt.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify.Frame(frame); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestVerifyFindsAWrongChecksum(t *testing.T) {
	for _, text := range []string{
		"tcp 198.51.100.7:1 > 192.0.2.10:2 syn sum 1",
		"udp [2001:db8::1]:53 > [2001:db8::2]:4000 sum 1",
		"icmp 192.0.2.1 > 192.0.2.2 echo-request sum 1",
		"icmpv6 2001:db8::1 > 2001:db8::2 echo-request sum 1",
		"tcp 198.51.100.7:1 > 192.0.2.10:2 ipsum 1",
		"gue 10.0.0.1:50000 > 10.0.0.11:6080 sum 1 carries tcp 198.51.100.7:1 > 192.0.2.10:2",
		"ipip 10.0.0.1 > 10.0.0.11 ipsum 1 carries tcp 198.51.100.7:1 > 192.0.2.10:2",
		"ipip 10.0.0.1 > 10.0.0.11 carries tcp 198.51.100.7:1 > 192.0.2.10:2 sum 1",
		"tcp 198.51.100.7:1 > 192.0.2.10:2 truncate 40",
	} {
		frame, err := pkt.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if verify.Frame(frame) == nil {
			t.Errorf("%s: not noticed", text)
		}
	}
}

func TestAnyBytesAreDescribedExactly(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		frame, err := pkt.Parse(texts[random.IntN(len(texts))])
		if err != nil {
			t.Fatal(err)
		}
		for range random.IntN(4) {
			frame[12+random.IntN(len(frame)-12)] ^= 1 << random.IntN(8)
		}
		frame = frame[:max(1, len(frame)-random.IntN(2)*random.IntN(len(frame)))]
		text := pkt.Describe(frame)
		again, err := pkt.Parse(text)
		if err != nil {
			t.Fatalf("%x: %v", frame, err)
		}
		if !bytes.Equal(again, frame) {
			t.Fatalf("frame %x\nis said to be %s\nwhich is %x", frame, text, again)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "column 1: the end begins no packet"},
		{"quic 1.2.3.4:1", `column 1: "quic" begins no packet`},
		{"tcp 198.51.100.7 > 192.0.2.10:443", `column 5: "198.51.100.7" is not an address and port`},
		{"tcp 198.51.100.7:1 < 192.0.2.10:443", `column 20: > expected, not "<"`},
		{"tcp 198.51.100.7:1 > [2001:db8::1]:443", "column 22: source and destination are of different families"},
		{"tcp 198.51.100.7:1 > 192.0.2.10:443 sny", `column 37: no such option here: "sny"`},
		{"udp 198.51.100.7:1 > 192.0.2.10:443 ttl 256", `column 41: "256" is not a number in range`},
		{"udp 198.51.100.7:1 > 192.0.2.10:443 ttl", "column 40: the end is not a number in range"},
		{"icmp 2001:db8::1 > 2001:db8::2 echo-request", "column 20: icmp goes with IPv4 addresses"},
		{"icmp 192.0.2.1 > 192.0.2.2 ping", "column 28: no such type"},
		{"ip 192.0.2.1 > 192.0.2.2", "column 25: proto expected, not the end"},
		{"udp 192.0.2.1:1 > 192.0.2.2:2 ext hbh", "column 31: IPv4 has no extension headers"},
		{"udp 192.0.2.1:1 > 192.0.2.2:2 frag x", `column 36: "x" is no fragment`},
		{"udp 192.0.2.1:1 > 192.0.2.2:2 ipopt 010101", "column 37: 3 bytes are not a multiple of 4"},
		{"arp is-at 192.0.2.1", `column 5: "is-at" is neither question nor answer`},
		{"arp who-has 2001:db8::1 tell 2001:db8::2", "column 30: arp goes with IPv4 addresses"},
		{"ipip 10.0.0.1 > 10.0.0.2 ttl 9", "column 31: carries expected, not the end"},
		{"ipip 10.0.0.1 > 10.0.0.2 carries arp who-has 192.0.2.1 tell 192.0.2.2", "what is carried is an IP packet"},
		{"ipip 10.0.0.1 > 10.0.0.2 carries udp 192.0.2.1:1 > 192.0.2.2:2 vlan 1", "column 64: \"vlan\" belongs before carries"},
		{"tcp 192.0.2.1:1 > 192.0.2.2:2 carries udp", "column 31: only ipip and gue carry a packet"},
		{"hex 0g", `column 5: "0g" is not hex`},
		{"hex", "column 4: the end is not hex"},
	} {
		_, err := pkt.Parse(c.text)
		var at *pkt.Error
		if !errors.As(err, &at) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestErrorShowsTheCaret(t *testing.T) {
	_, err := pkt.Parse("udp 192.0.2.1:1 > 192.0.2.2:2 ttl 256")
	want := "column 35: \"256\" is not a number in range\n" +
		"  udp 192.0.2.1:1 > 192.0.2.2:2 ttl 256\n" +
		"                                    ^ 0 to 255"
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}
}

// The words that an error offers are those of the help.
func TestHelpNamesEveryWord(t *testing.T) {
	_, err := pkt.Parse("tcp 192.0.2.1:1 > 192.0.2.2:2 ?")
	var at *pkt.Error
	if !errors.As(err, &at) {
		t.Fatal(err)
	}
	for line := range strings.Lines(err.Error()) {
		if len(line) > 80 {
			t.Errorf("too long for a terminal: %s", line)
		}
	}
	for _, word := range strings.Fields(at.Allowed) {
		if !strings.Contains(pkt.Help(), word) {
			t.Errorf("Help doesn't mention %s", word)
		}
	}
}

func TestSummaryCutsLongPayloads(t *testing.T) {
	frame, err := pkt.Parse("udp 192.0.2.1:1 > 192.0.2.2:2 data " + strings.Repeat("ab", 500))
	if err != nil {
		t.Fatal(err)
	}
	if got := pkt.Summary(frame); !strings.HasSuffix(got, "ab...(500 bytes)") || len(got) > 140 {
		t.Errorf("got %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		frame, err := pkt.Parse(text)
		if err != nil {
			return
		}
		again, err := pkt.Parse(pkt.Describe(frame))
		if len(frame) > 0 && (err != nil || !bytes.Equal(again, frame)) {
			t.Errorf("%s is described as %s: %v", hex.EncodeToString(frame), pkt.Describe(frame), err)
		}
	})
}

func TestExcerpt(t *testing.T) {
	for _, text := range []string{
		"tcp 198.51.100.7:40000 > 192.0.2.10:443 psh ack seq 7 ttl 63 len 1400",
		"udp [2001:db8::1]:53 > [2001:db8::2]:4000 len 1200 vlan 12",
		"icmp 198.51.100.7 > 192.0.2.10 echo-request id 3 len 1000",
		"ipip 10.0.0.1 > 10.0.0.11 carries udp 198.51.100.7:1 > 192.0.2.10:53 len 900",
		"udp 198.51.100.7:1 > 192.0.2.10:53 data 0102",
	} {
		frame, err := pkt.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		head := frame[:min(128, len(frame))]
		if got := pkt.Excerpt(head, len(frame)); got != text {
			t.Errorf("%s reads %s", text, got)
		}
	}
	frame, err := pkt.Parse("udp 198.51.100.7:1 > 192.0.2.10:53 data " + strings.Repeat("ab", 900))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := pkt.Excerpt(frame[:128], len(frame)), "udp 198.51.100.7:1 > 192.0.2.10:53 len 900"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for n := range 128 { // whatever it is
		pkt.Excerpt(frame[:n], 1000)
	}
}
