package explain_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"gardu/ctl/lb"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
	"gardu/ctl/pkt/verify"
)

// shape is what a packet may be like on its way to a backend.
type shape struct {
	name   string
	only   string // the service's family, if it is a matter of one
	words  string // what the packet says: a pattern
	reason string // why it left: a pattern
}

// shapes: each mode needs a case of each, for each pair of families that it carries.
var shapes = []shape{
	{"plain", "", `^(tcp|udp) \S+ > \S+( syn| ack| len \d+| data \S+)*$`, "^forward$"},
	{"802.1Q", "", ` vlan `, "^forward$"},
	{"QinQ", "", ` qinq `, "^forward$"},
	{"options", "IPv4", ` ipopt `, "^forward$"},
	{"extension headers", "IPv6", ` ext `, "^forward$"},
	{"too big, DF", "IPv4", ` df`, "^too-big-told$"},
	{"too big, may be fragmented", "IPv4", ``, "^cannot-fragment$"},
	{"too big", "IPv6", ``, "^too-big-told$"},
	{"first fragment", "", ` frag first`, "^forward$"},
	{"later fragment", "", ` frag later`, "^forward$"},
	{"later fragment before the first", "", ` frag later`, "^service-fragment$"},
	{"cut short", "", ` truncate `, "^malformed$"},
	{"contradicting itself", "", ` (total|udplen|doff) `, "^malformed$"},
}

// cell names a place of the table.
func cell(mode model.Mode, service, backend, shape string) string {
	return fmt.Sprintf("%s, %s in %s: %s", mode, service, backend, shape)
}

func familyOf(address netip.Addr) string {
	if address.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// TestEachModeMeetsEachShape: among the cases of testdata is one for each mode, pair of families and shape, which leaves as gopacket finds right.
func TestEachModeMeetsEachShape(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		findCells(t, archive, found)
	}
	addresses := []netip.Addr{source4, source6}
	for _, mode := range lb.Modes() {
		for _, service := range addresses {
			for _, backend := range addresses {
				for _, shape := range shapes {
					if !mode.Carries(service, backend) || shape.only != "" && shape.only != familyOf(service) {
						continue
					}
					if name := cell(mode.Name, familyOf(service), familyOf(backend), shape.name); !found[name] {
						t.Errorf("no case of %s", name)
					}
				}
			}
		}
	}
}

var (
	destination = regexp.MustCompile(`^\w+ \S+ > (\S+)`)
	serviceName = regexp.MustCompile(`service=(\S+)`)
)

// findCells adds the cells that a case is about.
func findCells(t *testing.T, archive *txtar.Archive, found map[string]bool) {
	t.Helper()
	apply := func(name string) *model.Snapshot {
		snapshot, err := readConfig(archive, name)
		if err != nil {
			t.Fatal(err)
		}
		return snapshot
	}
	snapshot := apply("config.yaml")
	lines := strings.Split(section(archive, "packets"), "\n")
	for i, line := range lines {
		if name, ok := strings.CutPrefix(line, "apply "); ok {
			snapshot = apply(name)
		}
		words := strings.SplitN(line, " ", 3)
		if words[0] != "in" {
			continue
		}
		packet, outcome := words[2], strings.Fields(lines[i+1])
		service := serviceIn(snapshot, packet, outcome)
		if service == nil {
			continue
		}
		for _, shape := range shapes {
			if regexp.MustCompile(shape.words).MatchString(packet) && regexp.MustCompile(shape.reason).MatchString(outcome[1]) && right(lines[i+2]) {
				for _, backend := range service.Backends {
					found[cell(service.Forward, familyOf(service.Address), familyOf(backend.Address), shape.name)] = true
				}
			}
		}
	}
}

// serviceIn is the service that a case's packet was for: as its outcome says, or the one that has its destination.
func serviceIn(snapshot *model.Snapshot, packet string, outcome []string) *model.Service {
	named := serviceName.FindStringSubmatch(strings.Join(outcome, " "))
	var address netip.Addr
	if to := destination.FindStringSubmatch(packet); to != nil {
		if end, err := netip.ParseAddrPort(to[1]); err == nil {
			address = end.Addr()
		}
	}
	i := slices.IndexFunc(snapshot.Services, func(s model.Service) bool {
		return named != nil && s.Name == named[1] || named == nil && s.Addresses().Contains(address)
	})
	if i < 0 {
		return nil
	}
	return &snapshot.Services[i]
}

// right tells whether a case's line has a frame that leaves as it should, or none.
func right(line string) bool {
	packet, leaves := strings.CutPrefix(line, "  out ")
	if !leaves {
		return true
	}
	frame, err := pkt.Parse(packet)
	return err == nil && verify.Frame(frame) == nil
}
