package top

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"gardu/ctl/api"
)

// source gives the example's counters and one sample a call.
type source struct{ fail error }

func (s source) Status(context.Context) (api.Status, error) { return readAfter(10).status, s.fail }
func (s source) Rules(context.Context) ([]api.Rule, error)  { return readAfter(10).rules, s.fail }
func (s source) Services(context.Context) ([]api.Service, error) {
	return readAfter(10).services, s.fail
}
func (s source) History(_ context.Context, q api.HistoryQuery) (api.History, error) {
	answer := api.History{Since: q.Since, Until: q.Until}
	line := func(keys map[string]string, packets uint64) {
		answer.Groups = append(answer.Groups, group(keys, 1, 60*packets, 6000*packets, 0, 0))
	}
	switch q.Group {
	case "verdict":
		line(map[string]string{"verdict": "pass"}, 70)
		line(map[string]string{"verdict": "drop"}, 30)
	case "service":
		line(map[string]string{"service": "web"}, 20)
	case "rule":
		line(map[string]string{"rule": "ssh"}, 25)
	case "reason":
		line(map[string]string{"reason": "rule-drop"}, 30)
	default:
		line(map[string]string{"src": "198.51.100.7", "dst": "192.0.2.10", "dport": "22", "proto": "tcp", "verdict": "drop", "service": "", "rule": "ssh", "backend": ""}, 25)
		line(map[string]string{"verdict": "pass"}, 70)
	}
	return answer, s.fail
}
func (s source) Top(_ context.Context, _ api.TopQuery, yield func(api.TopSample) error) error {
	return yield(api.TopSample{Reading: api.Reading{Since: now.Add(-time.Second), Until: now, Total: api.Counter{Packets: 5}}})
}

// person sits before a screen of flows.
type person struct {
	*testing.T
	*live
}

func newPerson(t *testing.T) *person {
	p := &person{t, newLive(t.Context(), source{}, Options{Every: 2 * time.Second, Unreachable: error.Error})}
	p.send = func(tea.Msg) {}
	p.Init()
	p.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	p.numbers(flowFrame())
	return p
}

func (p *person) numbers(f Frame) { p.Update(frameMsg{p.follows, f}) }

// press presses keys: letters, or names in brackets.
func (p *person) press(keys string) {
	named := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "up": tea.KeyUp, "end": tea.KeyEnd, "home": tea.KeyHome,
		"left": tea.KeyLeft, "right": tea.KeyRight, "backspace": tea.KeyBackspace, "tab": tea.KeyTab, "pgdown": tea.KeyPgDown}
	for keys != "" {
		var msg tea.KeyPressMsg
		if name, rest, found := strings.Cut(strings.TrimPrefix(keys, "<"), ">"); found && keys[0] == '<' {
			if letter, ctrl := strings.CutPrefix(name, "ctrl+"); ctrl {
				msg = tea.KeyPressMsg{Code: rune(letter[0]), Mod: tea.ModCtrl}
			} else {
				msg = tea.KeyPressMsg{Code: named[name]}
			}
			keys = rest
		} else {
			msg = tea.KeyPressMsg{Code: rune(keys[0]), Text: keys[:1]}
			keys = keys[1:]
		}
		p.Update(msg)
	}
}

func (p *person) sees(text string) {
	p.Helper()
	if screen := ansi.Strip(p.View().Content); !strings.Contains(screen, text) {
		p.Errorf("no %q in\n%s", text, screen)
	}
}

func (p *person) misses(text string) {
	p.Helper()
	if screen := ansi.Strip(p.View().Content); strings.Contains(screen, text) {
		p.Errorf("%q is in\n%s", text, screen)
	}
}

func (p *person) asks(filter, group, sort string) {
	p.Helper()
	q := p.query()
	if q.Filter != filter || q.Group != group || q.Sort != sort {
		p.Errorf("asks for %+v", q)
	}
}

func TestPause(t *testing.T) {
	p := newPerson(t)
	p.sees("198.51.100.7:40000")
	p.press("p")
	p.numbers(Frame{Until: now.Add(time.Second)})
	p.sees("198.51.100.7:40000")
	p.sees(" paused ")
	p.press(" ")
	p.misses("198.51.100.7:40000")
	p.misses(" paused ")
}

// Lines stay where they are; one that does nothing stays with zeros, and new ones come behind.
func TestFreeze(t *testing.T) {
	p := newPerson(t)
	p.press("f")
	p.sees(" order frozen ")
	f := flowFrame()
	f.Groups[0], f.Groups[2] = f.Groups[2], f.Groups[0]
	f.Groups = append(f.Groups[:3:3], Group{Keys: flowOf("192.0.2.99", "7", "192.0.2.10", "443", "tcp", "pass", "", "", ""), Flows: 1, Sent: Rate{1, 1e9}})
	p.numbers(f)
	var order []string
	for _, g := range p.groups() {
		order = append(order, g.Keys["src"])
	}
	if got := strings.Join(order, " "); got != "198.51.100.7 2001:db8:1111:2222:3333:4444:5555:6666 192.0.2.77 203.0.113.9 192.0.2.1  192.0.2.99" {
		t.Errorf("order is %s", got)
	}
	if g := p.groups()[3]; g.Both() != (Rate{}) {
		t.Errorf("%+v", g)
	}
	p.press("f")
	p.misses("frozen")
	if p.groups()[0].Keys["src"] != "192.0.2.77" {
		t.Errorf("%+v", p.groups()[0])
	}
}

func TestViewsAndBack(t *testing.T) {
	p := newPerson(t)
	p.asks("", FlowKeys, "bytes")
	p.press("s")
	p.asks("", FlowKeys, "packets")
	p.press("2")
	p.asks("", "src", "packets")
	p.sees("reading ...")
	p.press("<tab>")
	p.asks("", "dst", "packets")
	p.press("6<down><enter>") // into the second rule
	p.asks(`rule "ssh"`, FlowKeys, "packets")
	p.press("g<ctrl+a><ctrl+k>src/24,dport<enter>")
	p.asks(`rule "ssh"`, "src/24,dport", "packets")
	p.numbers(Frame{Until: now, Groups: []Group{{Keys: map[string]string{"src/24": "198.51.100.0/24", "dport": "22"}}, {}}})
	p.press("<down><enter>") // all others can't be looked into
	p.asks(`rule "ssh"`, "src/24,dport", "packets")
	p.press("<up><enter>")
	p.asks(`rule "ssh" and src 198.51.100.0/24 and dport 22`, FlowKeys, "packets")
	p.press("<esc>")
	p.asks(`rule "ssh"`, "src/24,dport", "packets")
	p.press("<esc><esc><esc><esc><esc><esc><esc>")
	p.asks("", FlowKeys, "packets")
}

func TestFilter(t *testing.T) {
	p := newPerson(t)
	p.press("/dport 443 or dprt 80<enter>")
	p.sees(`"dprt" is not a key`)
	p.press("<left>x<backspace>")
	p.misses("is not a key")
	p.press("<esc>")
	p.asks("", FlowKeys, "bytes")
	p.press("/dport 443 or dport 80<enter>")
	p.asks("dport 443 or dport 80", FlowKeys, "bytes")
	p.sees("filter dport 443 or dport 80")
	p.press("5<enter>")
	p.asks(`(dport 443 or dport 80) and service "web"`, FlowKeys, "bytes")
	p.press("/<ctrl+w><ctrl+w><ctrl+w><enter>")
	p.asks("(dport 443 or dport 80)", FlowKeys, "bytes")
	p.press("/")
	p.Update(tea.PasteMsg{Content: " and\x1b[2J src 192.0.2.1\n"})
	p.sees("and?[2J src 192.0.2.1")
	p.press("<ctrl+u><enter>")
	p.asks("", FlowKeys, "bytes")
}

func TestSelection(t *testing.T) {
	p := newPerson(t)
	p.group = "src/24,service"
	p.numbers(sourceFrame(60))
	p.sees("198.51.0.0/24")
	p.press("<end>")
	p.sees("198.51.59.0/24")
	p.misses("198.51.0.0/24")
	p.press("<home><down><down>j")
	if p.View(); p.selected != 3 {
		t.Errorf("line %d is selected", p.selected)
	}
	p.press("<pgdown>kk")
	p.sees("198.51.13.0/24")
	p.numbers(sourceFrame(2))
	if p.View(); p.selected != 1 {
		t.Errorf("line %d of 2 is selected", p.selected)
	}
}

func TestPace(t *testing.T) {
	p := newPerson(t)
	for keys, want := range map[string]time.Duration{"+": 5 * time.Second, "++": 10 * time.Second, "-": time.Second, "-----": 500 * time.Millisecond} {
		p.every = 2 * time.Second
		p.press(keys)
		if p.every != want {
			t.Errorf("%s: every %v", keys, p.every)
		}
	}
}

// What is late, because something else was chosen meanwhile, isn't shown.
func TestLateNumbers(t *testing.T) {
	p := newPerson(t)
	late := frameMsg{p.follows, flowFrame()}
	p.press("2")
	p.Update(late)
	p.Update(problemMsg{late.follow, errors.New("gone")})
	p.sees("reading ...")
}

// A daemon that goes away leaves its last numbers, and says so until it is back.
func TestProblem(t *testing.T) {
	p := newPerson(t)
	p.Update(problemMsg{p.follows, errors.New("the daemon doesn't answer\nat all")})
	p.sees("no numbers")
	p.sees("the daemon doesn't answer")
	p.sees("198.51.100.7:40000")
	p.misses("at all")
	p.numbers(flowFrame())
	p.misses("no numbers")
}

func TestFollow(t *testing.T) {
	frames := 0
	err := Follow(t.Context(), source{}, api.TopQuery{Group: "src"}, func(f Frame) error {
		frames++
		if f.Total.Packets != 5 || f.Verdicts[0].Packets != 0 {
			t.Errorf("%+v", f)
		}
		return nil
	})
	if err != nil || frames != 1 {
		t.Errorf("%d frames, %v", frames, err)
	}
	gone := errors.New("gone")
	if err := Follow(t.Context(), source{gone}, api.TopQuery{}, nil); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}

func TestShort(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 0.01: "<0.1", 0.44: "0.4", 1: "1", 9.94: "9.9", 9.96: "10", 999.4: "999", 999.6: "1.00k",
		1234: "1.23k", 99_960: "100k", 12.3e6: "12.3M", 1e24: "1000Z"} {
		if got := short(n); got != want {
			t.Errorf("%v is %q, want %q", n, got, want)
		}
	}
}

// What was at a time, and back to now.
func TestPast(t *testing.T) {
	p := newPerson(t)
	p.look = noStyle
	run := func(cmd tea.Cmd) {
		if cmd != nil {
			p.Update(cmd())
		}
	}
	last := time.Now().Truncate(time.Minute).Add(-time.Minute)
	_, cmd := p.Update(tea.KeyPressMsg{Code: tea.KeyLeft})
	run(cmd)
	if p.at.Before(last) || p.query().Group != "src,dst,dport,proto,verdict,service,rule,backend" {
		t.Errorf("at %v: %+v", p.at, p.query())
	}
	p.sees(p.at.Local().Format("2006-01-02 15:04") + " to " + p.at.Add(time.Minute).Local().Format("15:04"))
	p.sees(" total  80.0 kbit/s    100 pkt/s")
	p.sees("pass 70% 70/s")
	p.sees("198.51.100.7")
	p.sees("(various)")
	at := p.at
	_, cmd = p.Update(tea.KeyPressMsg{Code: tea.KeyLeft})
	run(cmd)
	if !p.at.Equal(at.Add(-time.Minute)) {
		t.Errorf("from %v to %v", at, p.at)
	}
	p.press("7")
	p.sees("rule-drop")
	p.press("1<right><right><right>")
	if p.past() {
		t.Errorf("still at %v", p.at)
	}
	p.numbers(flowFrame())
	p.sees("198.51.100.7:40000")
}
