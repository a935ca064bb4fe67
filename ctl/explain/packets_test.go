package explain_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/explain"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
	"gardu/ctl/pkt/verify"
	"gardu/ctl/rule"
)

var update = flag.Bool("update", false, "write what the reference model says into testdata/*.txtar; read the difference")

// kernelMatters are the cases that are played in short runs too: those of packets that are changed, sent or noted by the kernel's
// helpers. An emulated machine takes long to verify the programs of each case, and how a field is compared is the same everywhere.
var kernelMatters = regexp.MustCompile(`^(arp|blocks|dsr|errors|events|fragment|gue|health|ipip|limit|mirror|nat|nd|out|ping|quic|redirect|reject|state-tcp|too-big)`)

// TestPackets plays the cases of testdata through the reference model and, as root, through the programs on each hook.
// A case is a txtar file: a comment that says what it shows, config.yaml, and
//
//	-- packets --
//	in eth0 PACKET                   a received packet, on one of the first two interfaces; below it, indented, what becomes of it:
//	  VERDICT REASON [rule=NAME] [service=NAME] [backend=NAME]
//	  out PACKET                     as gardu sends it, if it does
//	  log rule=NAME                  an event of a rule; or sample, or shadow, that one with would=VERDICT; or of none: drop
//	out eth0 PACKET                  a packet that the kernel sends, likewise
//	wait 61s                         time passes
//	tick 100ms                       time passes, for limits alone
//	block PREFIX [expired|briefly]   and unblock PREFIX; briefly: until the next line
//	backend SERVICE/NAME down        or: up, no-hop, mtu N, vlan N
//	exit NAME down                   or: up, mtu N
//	watch on                         or off: whether dropped packets become events
//	answers N                        so many more rejected packets may be answered
//	check PROTO ADDR:PORT > ADDR:PORT  gardu's own health check begins; of a ping its identifier is both ports
//	apply FILE                       another snapshot of the archive
//	-- counters --
//	NAME PACKETS BYTES [FLOWS]       all that moved: what isn't named is still zero
//
// Backends are up, behind MAC address 02:00:00:00:01:XX with XX the last byte of their address, with an MTU of 1500. The
// programs are loaded with the features of the snapshots. Cases called *-xdp are for that hook alone.
func TestPackets(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		if testing.Short() && !kernelMatters.MatchString(filepath.Base(file)) {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := play(archive, newModelPath()); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			t.Run("model", func(t *testing.T) { comparePlay(t, archive, newModelPath()) })
			for name, hook := range hooks {
				if strings.HasSuffix(file, "-xdp.txtar") && name != "xdp" {
					continue
				}
				t.Run(name, func(t *testing.T) { comparePlay(t, archive, newBoxPath(t, hook, featuresOf(t, archive))) })
			}
		})
	}
}

func comparePlay(t *testing.T, archive *txtar.Archive, p path) {
	t.Helper()
	got := &txtar.Archive{Files: slices.Clone(archive.Files)}
	if err := play(got, p); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"packets", "counters"} {
		if want, got := section(archive, name), section(got, name); got != want {
			t.Errorf("%s:\n%s", name, difference(want, got))
		}
	}
}

// featuresOf is what all the snapshots of the case need together.
func featuresOf(t *testing.T, archive *txtar.Archive) compile.Features {
	t.Helper()
	var f compile.Features
	for _, file := range archive.Files {
		if !strings.HasSuffix(file.Name, ".yaml") {
			continue
		}
		snapshot, err := readConfig(archive, file.Name)
		if err != nil {
			t.Fatal(err)
		}
		ids, _, err := compile.IDs{}.Assign(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		tables, err := compile.Compile(snapshot, ids)
		if err != nil {
			t.Fatal(err)
		}
		f = f.Or(tables.Features)
	}
	return f
}

func readConfig(archive *txtar.Archive, name string) (*model.Snapshot, error) {
	snapshot, _, err := config.Parse(name, []byte(section(archive, name)), ".")
	return snapshot, err
}

func section(archive *txtar.Archive, name string) string {
	for _, file := range archive.Files {
		if file.Name == name {
			return string(file.Data)
		}
	}
	return ""
}

func setSection(archive *txtar.Archive, name, text string) {
	for i := range archive.Files {
		if archive.Files[i].Name == name {
			archive.Files[i].Data = []byte(text)
			return
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(text)})
}

// play runs the case on the path and writes what happened into its packets and counters.
func play(archive *txtar.Archive, p path) error {
	player := player{archive: archive, path: p, states: map[string]explain.BackendState{}}
	if err := player.apply("config.yaml"); err != nil {
		return err
	}
	var script strings.Builder
	for line := range strings.Lines(section(archive, "packets")) {
		line = strings.TrimRight(line, " \n")
		if strings.HasPrefix(line, " ") {
			continue // what is expected
		}
		fmt.Fprintln(&script, line)
		told, err := player.line(line)
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		script.WriteString(told)
	}
	counters, err := p.Counters()
	if err != nil {
		return err
	}
	setSection(archive, "packets", script.String())
	setSection(archive, "counters", countersText(counters))
	return nil
}

func countersText(counters explain.Counters) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		c := counters[name]
		fmt.Fprintf(&b, "%s %d %d", name, c.Packets, c.Bytes)
		if strings.HasPrefix(name, "backend ") && name != "backend none" {
			fmt.Fprintf(&b, " %d", c.Flows)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// errNoBackend: the line names a backend that no snapshot had so far.
var errNoBackend = errors.New("no such backend")

// player is a case being played.
type player struct {
	archive  *txtar.Archive
	path     path
	snapshot *model.Snapshot
	keys     []explain.BackendKey
	states   map[string]explain.BackendState
	exits    map[string]explain.Exit
}

// line does what a line says, and returns what came of it.
func (p *player) line(line string) (string, error) {
	words := strings.Fields(line)
	if len(words) == 0 || words[0] == "#" {
		return "", nil
	}
	switch {
	case words[0] == "wait" && len(words) == 2:
		ahead, err := time.ParseDuration(words[1])
		if err != nil {
			return "", err
		}
		return "", p.path.Wait(ahead)
	case (words[0] == "in" || words[0] == "out") && len(words) > 2:
		on := slices.IndexFunc(p.snapshot.Interfaces, func(i model.Interface) bool { return i.Name == words[1] })
		if on < 0 || on >= len(received) {
			return "", fmt.Errorf("no packets come in on %s", words[1])
		}
		frame, err := pkt.Parse(strings.Join(words[2:], " "))
		if err != nil {
			return "", err
		}
		judge := p.path.Judge
		if words[0] == "out" {
			judge = p.path.JudgeSent
		}
		out, err := judge(on, frame)
		if err == nil && out.Frame != nil && verify.Frame(frame) == nil {
			err = verify.Frame(out.Frame) // what is right when it comes must be right when it leaves
		}
		return outcomeText(out), err
	case words[0] == "apply" && len(words) == 2:
		return "", p.apply(words[1])
	case words[0] == "block" && len(words) >= 2:
		prefix, err := netip.ParsePrefix(words[1])
		if err != nil {
			return "", err
		}
		var until time.Time
		switch {
		case len(words) == 3 && words[2] == "expired":
			until = time.Now().Add(-time.Second)
		case len(words) == 3 && words[2] == "briefly":
			until = time.Now().Add(2 * time.Millisecond)
			defer time.Sleep(5 * time.Millisecond)
		}
		return "", p.path.Block(prefix, until)
	case words[0] == "tick" && len(words) == 2:
		d, err := time.ParseDuration(words[1])
		if err == nil {
			p.path.Tick(d)
		}
		return "", err
	case words[0] == "unblock" && len(words) == 2:
		prefix, err := netip.ParsePrefix(words[1])
		if err != nil {
			return "", err
		}
		return "", p.path.Unblock(prefix)
	case words[0] == "check" && len(words) == 5:
		proto, ok := rule.Protocol(words[1])
		if !ok {
			return "", fmt.Errorf("no protocol %s", words[1])
		}
		local, err := netip.ParseAddrPort(words[2])
		if err != nil {
			return "", err
		}
		remote, err := netip.ParseAddrPort(words[4])
		if err != nil {
			return "", err
		}
		return "", p.path.Check(proto, local, remote)
	case words[0] == "exit" && len(words) >= 3:
		return "", p.exit(words[1], words[2:])
	case words[0] == "watch" && len(words) == 2:
		return "", p.path.WatchDrops(words[1] == "on")
	case words[0] == "answers" && len(words) == 2:
		answers, err := strconv.Atoi(words[1])
		if err != nil {
			return "", err
		}
		return "", p.path.LimitRejects(answers)
	case words[0] == "backend" && len(words) >= 3:
		return "", p.backend(words[1], words[2:])
	}
	return "", errors.New("no such line")
}

// apply puts a file of the case in force; backends that it brings are reachable.
func (p *player) apply(name string) error {
	snapshot, err := readConfig(p.archive, name)
	if err != nil {
		return err
	}
	p.snapshot = snapshot
	for _, key := range keysOf(snapshot) {
		if !slices.Contains(p.keys, key) {
			p.keys = append(p.keys, key)
			if err := p.path.SetBackend(key, reachable(key)); err != nil {
				return err
			}
		}
	}
	if err := p.path.Apply(snapshot); err != nil {
		return err
	}
	for _, rule := range snapshot.Filter.Rules {
		if _, known := p.exits[rule.Interface]; !known && rule.Interface != "" {
			if err := p.exit(rule.Interface, []string{"up"}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *player) exit(name string, words []string) error {
	exit := explain.Exit{Ifindex: sentBy, MTU: 1500}
	switch words[0] {
	case "up":
	case "down":
		exit = explain.Exit{}
	case "mtu":
		mtu, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		exit.MTU = mtu
	default:
		return fmt.Errorf("an exit can't be %s", words[0])
	}
	if p.exits == nil {
		p.exits = map[string]explain.Exit{}
	}
	p.exits[name] = exit
	return p.path.SetExit(name, exit)
}

func (p *player) backend(name string, words []string) error {
	for _, key := range p.keys {
		if key.String() != name {
			continue
		}
		state, known := p.states[name]
		if !known {
			state = reachable(key)
		}
		switch words[0] {
		case "up", "down":
			state.Down = words[0] == "down"
		case "no-hop":
			state.Hop = false
		case "mtu":
			mtu, err := strconv.Atoi(words[1])
			if err != nil {
				return err
			}
			state.MTU = mtu
		case "vlan":
			id, err := strconv.ParseUint(words[1], 10, 12)
			if err != nil {
				return err
			}
			state.VLAN = uint16(id)
		default:
			return fmt.Errorf("a backend can't be %s", words[0])
		}
		p.states[name] = state
		return p.path.SetBackend(key, state)
	}
	return errNoBackend
}

// outcomeText is an outcome as cases write it.
func outcomeText(out explain.Outcome) string {
	text := "  " + out.Verdict + " " + out.Reason
	for _, part := range []struct{ name, value string }{{"rule", out.Rule}, {"service", out.Service}, {"backend", out.Backend}} {
		if part.value != "" {
			text += " " + part.name + "=" + part.value
		}
	}
	if out.Frame != nil {
		text += "\n  out " + pkt.Describe(out.Frame)
	}
	for _, note := range out.Notes {
		text += "\n  " + note
	}
	return text + "\n"
}

// difference shows the lines that differ, each with what should be there.
func difference(want, got string) string {
	var b strings.Builder
	wants, gots := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(wants), len(gots)) {
		var w, g, head string
		if i < len(wants) {
			w = wants[i]
		}
		if i < len(gots) {
			g = gots[i]
		}
		if w == g {
			continue
		}
		for j := min(i, len(gots)-1); j >= 0 && head == ""; j-- {
			if !strings.HasPrefix(gots[j], " ") {
				head = gots[j]
			}
		}
		fmt.Fprintf(&b, "%s\n\twant %s\n\tgot  %s\n", head, w, g)
	}
	return b.String()
}
