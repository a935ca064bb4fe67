package explain_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/explain"
	"gardu/ctl/pkt"
	"gardu/ctl/pkt/verify"
)

// roundPackets is how many packets share one box.
const roundPackets = 5000

// TestModelAndProgramsAgree puts random packets under random configurations, with blocks, backends and configurations
// coming and going between them, through the reference model and the programs on each hook. Both must agree in verdict,
// reason, names and bytes of every packet, and in all counters. A disagreement is reduced to a case for testdata. Half of the
// rounds are whole flows, see flowScript.
//
// GARDU_FUZZ is the number of packets (200,000), GARDU_SEED the seed (1: what fails, fails again; `make fuzz` takes others).
func TestModelAndProgramsAgree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	packets := fromEnvironment(t, "GARDU_FUZZ", 200_000)
	if testing.Short() {
		packets = 2 * roundPackets
	}
	seed := fromEnvironment(t, "GARDU_SEED", 1)
	t.Logf("GARDU_SEED=%d", seed)
	met := explain.Counters{}
	rounds := int((packets + roundPackets - 1) / roundPackets)
	for round := range rounds {
		hook := []string{"xdp", "tc"}[round%2]
		t.Run(fmt.Sprintf("%d-%s", round, hook), func(t *testing.T) {
			g := generator{Rand: rand.New(rand.NewPCG(seed, uint64(round)))}
			s := g.script(hook)
			if round%4 >= 2 {
				s = g.flowScript(hook)
			}
			features := allFeatures
			if !s.checks {
				features = featuresOf(t, s.archive())
			}
			if at, what := s.disagreement(t, hook, features, met); what != "" {
				t.Errorf("GARDU_SEED=%d, step %d of round %d: %s", seed, at, round, what)
				t.Logf("the smallest case found:\n%s", s.shrink(t, hook, features, time.Now().Add(time.Minute)))
			}
		})
		if t.Failed() {
			return
		}
	}
	var never []string
	for reason := range abi.ReasonCount {
		count := met["reason "+reason.String()].Packets
		t.Logf("%7d %s", count, reason)
		if count == 0 && !slices.Contains(unreached, reason) {
			never = append(never, reason.String())
		}
	}
	if len(never) > 0 && packets >= 100_000 {
		t.Errorf("the random packets are too tame: none left for %s", strings.Join(never, ", "))
	}
}

// unreached are reasons that no packet can bring about, or that depend on interfaces, for which there are packet tests; a table of
// translations is full in a test of its own.
var unreached = []abi.Reason{
	abi.ReasonNone, abi.ReasonNoTables, abi.ReasonEncapFailed, abi.ReasonRejectFailed, abi.ReasonRedirectFailed, abi.ReasonNatFull,
}

func fromEnvironment(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// script is a random case: steps under the first configuration, until one applies another.
type script struct {
	configs []configText
	steps   []step
	checks  bool // there may be health checks, which need a feature that no configuration here asks for
}

// step is a packet, or else a line as in testdata.
type step struct {
	frame []byte
	sent  bool // by the kernel, not received
	on    int  // index of the interface that it comes in on
	clean bool
	line  string
}

// judge puts the packet of a step on a path.
func (s step) judge(p path) (explain.Outcome, error) {
	if s.sent {
		return p.JudgeSent(s.on, s.frame)
	}
	return p.Judge(s.on, s.frame)
}

// text is the step as cases write it.
func (s step) text() string {
	switch {
	case s.frame == nil:
		return s.line
	case s.sent:
		return fmt.Sprintf("out eth%d %s", s.on, pkt.Describe(s.frame))
	default:
		return fmt.Sprintf("in eth%d %s", s.on, pkt.Describe(s.frame))
	}
}

func configName(i int) string {
	if i == 0 {
		return "config.yaml"
	}
	return fmt.Sprintf("config%d.yaml", i)
}

// script makes a round. Packets come again, changed or not, so that their flows are known.
func (g generator) script(hook string) script {
	s := script{checks: g.oneIn(2)}
	for range 1 + g.IntN(3) {
		s.configs = append(s.configs, g.config())
	}
	backends := s.backends()
	var recent []step
	var blocked []string
	watching, watched := false, 0
	seen := rehearse(s)
	for len(s.steps) < roundPackets {
		var next step
		if len(s.steps) == roundPackets*9/10 { // there are no more in this round
			s.steps = append(s.steps, step{line: fmt.Sprintf("answers %d", 1+g.IntN(30))})
		}
		switch what := g.IntN(2000); {
		case what < 4:
			next.line = "apply " + configName(g.IntN(len(s.configs)))
		case what < 8 && len(backends) > 0:
			next.line = fmt.Sprintf("backend %s %s", pick(g, backends...), pick(g, "down", "down", "up", "up", "no-hop", "mtu 1400", "mtu 0", "vlan 20", "vlan 0"))
		case what < 9:
			next.line = fmt.Sprintf("exit %s %s", pick(g, exitNames...), pick(g, "down", "up", "up", "up", "mtu 1400", "mtu 0"))
		case what < 12:
			prefix := g.blockable()
			blocked = append(blocked, prefix)
			next.line = "block " + prefix + pick(g, "", "", " expired")
		case what < 28 && len(blocked) > 0:
			next.line = "unblock " + pick(g, blocked...)
		case what < 32 && s.checks:
			local, remote := g.endpoints(g.oneIn(2))
			next.line = fmt.Sprintf("check tcp %s > %s", local, remote)
			answer := step{clean: true, frame: mustParse(fmt.Sprintf("tcp %s > %s syn ack", remote, local))}
			recent = append(recent, answer, answer, answer)
		case what < 34:
			next.line = "wait " + pick(g, "101s", "101s", "8000s")
		case watching && watched == int(abi.WatchDrops): // all of them may be dropped within a second, and no more are told of
			next.line = "watch off"
		case what < 36 && watched < int(abi.WatchDrops):
			next.line = "watch on"
		case what < 46:
			next.line = "watch off"
		case what < 70:
			next.line = "tick " + pick(g, "1ms", "10ms", "100ms", "333ms", "1s", "10s")
		case what < 120 && len(recent) > 0:
			next.frame = g.icmpError(seen.sent(g, pick(g, recent...).frame))
		case what < 300 && len(seen.answers) > 0:
			next.frame = pick(g, seen.answers...)
			if g.oneIn(8) {
				next.frame = g.fragmented(next.frame)
			}
			if g.oneIn(6) {
				next.frame = bytes.Clone(next.frame)
				next.frame[14+g.IntN(min(28, len(next.frame)-14))] ^= 1 << g.IntN(8)
			}
		case what < 900 && len(recent) > 0:
			next = pick(g, recent...)
			if g.oneIn(2) {
				next.frame = turned(next.frame)
			}
			if g.oneIn(8) {
				next.on = 1 - next.on
			}
			if g.oneIn(8) {
				next.frame, next.clean = g.fragmented(next.frame), false
			}
			if g.oneIn(4) && len(next.frame) > 60 {
				next.frame, next.clean = bytes.Clone(next.frame), false
				next.frame[14+g.IntN(46)] ^= 1 << g.IntN(8)
			}
		default:
			next.frame, next.clean = g.packet()
			recent = append(recent, next)
			recent = recent[max(0, len(recent)-100):]
		}
		next.sent = next.frame != nil && g.oneIn(3)
		switch {
		case next.frame == nil && strings.HasPrefix(next.line, "watch "):
			watching = next.line == "watch on"
		case next.frame != nil && watching:
			watched++
		}
		if next.frame == nil || hook != "tc" && !next.sent || !refusedAtTC(next.frame) {
			s.steps = append(s.steps, next)
			seen.play(next)
		}
	}
	return s
}

// rehearsal is a script played on the reference model while it is made, to know what the answers to forwarded packets would be,
// and which backend flows are on.
type rehearsal struct {
	player
	answers [][]byte // the latest
	backend string   // of the last packet that was forwarded to one
}

func rehearse(s script) *rehearsal {
	r := &rehearsal{player: player{archive: s.archive(), path: newModelPath(), states: map[string]explain.BackendState{}}}
	if err := r.apply("config.yaml"); err != nil {
		panic(err)
	}
	return r
}

// sent is something that was sent because this packet came, by whom it was for or on the way to them.
func (r *rehearsal) sent(g generator, packet []byte) []byte {
	switch {
	case len(r.answers) > 0 && g.oneIn(3): // to or by a backend
		packet = pick(g, r.answers...)
		fallthrough
	case g.oneIn(2):
		return turned(packet)
	}
	return packet
}

func (r *rehearsal) play(s step) {
	if s.frame == nil {
		if _, err := r.line(s.line); err != nil && !errors.Is(err, errNoBackend) {
			panic(fmt.Sprintf("%s: %v", s.line, err))
		}
		return
	}
	out, _ := s.judge(r.path)
	if out.Reason == "forward" {
		r.backend = out.Service + "/" + out.Backend
	}
	if out.Reason == "forward" || out.Reason == "nat-reply" {
		r.answers = append(r.answers, turned(out.Frame))
		r.answers = r.answers[max(0, len(r.answers)-100):]
	}
}

// backends are those of all its configurations.
func (s script) backends() []string {
	var backends []string
	for i, c := range s.configs {
		snapshot, err := readConfig(s.archive(), configName(i))
		if err != nil {
			panic(fmt.Sprintf("%v\n%s", err, c.yaml()))
		}
		for _, key := range keysOf(snapshot) {
			backends = append(backends, key.String())
		}
	}
	return backends
}

// fragmented makes an IPv4 packet that is no fragment one, or the reverse, with the id that it has.
func (g generator) fragmented(frame []byte) []byte {
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return frame
	}
	frame = bytes.Clone(frame)
	binary.BigEndian.PutUint16(frame[20:], pick[uint16](g, 0x2000, 0x2000, 0x2007, 7, 7, 0))
	return frame
}

// blockable is a prefix that a block may have.
func (g generator) blockable() string {
	for {
		if text := g.prefix(); text[len(text)-3:] != "/0\"" {
			return text[1 : len(text)-1]
		}
	}
}

// refusedAtTC: test runs refuse frames that end within the IP header that follows the Ethernet header.
func refusedAtTC(frame []byte) bool {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		return len(frame) < 14+20
	case 0x86dd:
		return len(frame) < 14+40
	}
	return false
}

func (s script) archive() *txtar.Archive {
	archive := &txtar.Archive{}
	for i, c := range s.configs {
		setSection(archive, configName(i), c.yaml())
	}
	return archive
}

// disagreement plays the script on both paths, from the start, and returns the first step that they see differently,
// len(steps) for the counters at the end, and what it is; "" when there is none. It adds to the counters in met.
func (s script) disagreement(t *testing.T, hook string, features compile.Features, met explain.Counters) (at int, what string) {
	t.Helper()
	box := newBox(t, features)
	defer box.Close()
	model := player{archive: s.archive(), path: newModelPath(), states: map[string]explain.BackendState{}}
	program := player{archive: s.archive(), path: stopped(t, box, hooks[hook]), states: map[string]explain.BackendState{}}
	for _, p := range []*player{&model, &program} {
		if err := p.apply("config.yaml"); err != nil {
			t.Fatal(err)
		}
	}
	for i, step := range s.steps {
		if step.frame == nil {
			for _, p := range []*player{&model, &program} {
				if _, err := p.line(step.line); err != nil && !errors.Is(err, errNoBackend) {
					t.Fatalf("%s: %v", step.line, err)
				}
			}
			continue
		}
		want, _ := step.judge(model.path)
		got, err := step.judge(program.path)
		if err != nil {
			return i, fmt.Sprintf("%s: %v", pkt.Describe(step.frame), err)
		}
		if !sameOutcome(want, got) {
			return i, fmt.Sprintf("%s\nmodel:\n%sprogram:\n%s", pkt.Describe(step.frame), outcomeText(want), outcomeText(got))
		}
		if step.clean && got.Frame != nil && verify.Frame(step.frame) == nil {
			if err := verify.Frame(got.Frame); err != nil {
				return i, fmt.Sprintf("%s\nleaves wrong: %v", pkt.Describe(step.frame), err)
			}
		}
	}
	want, _ := model.path.Counters()
	for name, counter := range want {
		met.Add(name, counter)
	}
	got, err := program.path.Counters()
	if err != nil {
		return len(s.steps), err.Error()
	}
	if !maps.Equal(want, got) {
		return len(s.steps), "counters:\n" + difference(countersText(want), countersText(got))
	}
	return 0, ""
}

func sameOutcome(a, b explain.Outcome) bool {
	return a.Verdict == b.Verdict && a.Reason == b.Reason && a.Rule == b.Rule && a.Service == b.Service &&
		slices.Equal(a.Notes, b.Notes) && a.Backend == b.Backend && a.Ifindex == b.Ifindex && bytes.Equal(a.Frame, b.Frame)
}

// shrink leaves out all that the disagreement doesn't need, as long as there is time, and writes the rest as a case.
func (s script) shrink(t *testing.T, hook string, features compile.Features, deadline time.Time) []byte {
	t.Helper()
	still := func(smaller script) bool {
		for _, c := range smaller.configs {
			if !c.valid() {
				return false
			}
		}
		_, what := smaller.disagreement(t, hook, features, explain.Counters{})
		return what != ""
	}
	if at, _ := s.disagreement(t, hook, features, explain.Counters{}); at < len(s.steps) {
		s.steps = s.steps[:at+1]
	}
	s.steps = without(s.steps, deadline, func(steps []step) bool { return still(script{configs: s.configs, steps: steps}) })
	for i := range s.configs {
		for _, part := range []func(*configText) *[]string{
			func(c *configText) *[]string { return &c.rules },
			func(c *configText) *[]string { return &c.services },
			func(c *configText) *[]string { return &c.sets },
		} {
			try := func(lines []string) script {
				configs := slices.Clone(s.configs)
				*part(&configs[i]) = lines
				return script{configs: configs, steps: s.steps}
			}
			s = try(without(*part(&s.configs[i]), deadline, func(lines []string) bool { return still(try(lines)) }))
		}
	}
	archive := s.archive()
	var lines bytes.Buffer
	for _, step := range s.steps {
		fmt.Fprintln(&lines, step.text())
	}
	setSection(archive, "packets", lines.String())
	if err := play(archive, newModelPath()); err != nil {
		t.Logf("not played to its end: %v", err)
	}
	return txtar.Format(archive)
}

// without leaves out halves, quarters, ... of all, as long as still holds.
func without[T any](all []T, deadline time.Time, still func([]T) bool) []T {
	for size := max(1, len(all)/2); ; size /= 2 {
		for at := 0; at < len(all); {
			less := slices.Concat(all[:at], all[min(len(all), at+size):])
			if time.Now().Before(deadline) && still(less) {
				all = less
			} else {
				at += size
			}
		}
		if size <= 1 {
			return all
		}
	}
}
