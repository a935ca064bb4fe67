package top

import (
	"fmt"
	"strings"
	"time"

	"gardu/ctl/api"
)

// screen is everything that is shown, but for the size of it.
type screen struct {
	choice
	frame    Frame     // zero until there is one
	history  []float64 // bytes a second, the newest last
	every    time.Duration
	at       time.Time // zero: now
	sort     int       // of sorts
	selected int
	first    int // row at the top of the table
	paused   bool
	order    []Group // while frozen
	prompt   *prompt
	help     bool
	waiting  bool   // what was chosen isn't there yet
	problem  string // why there are no numbers
	look     look
}

// prompt is a line that somebody types.
type prompt struct {
	what    string // "filter" or "group"
	text    []rune
	at      int
	problem string
}

// Smallest screen that says anything, and from when on there is room for a column to the side.
const (
	minWidth, minHeight   = 40, 10
	sideWidth, sideHeight = 140, 20
	headLines, footLines  = 4, 2
)

// draw makes the lines of a terminal of that size.
func (s *screen) draw(width, height int) []string {
	var lines []line
	switch {
	case width < minWidth || height < minHeight:
		lines = []line{{{fmt.Sprintf("at least %dx%d, please", minWidth, minHeight), warn}}}
	case s.help:
		lines = s.helpLines()
	default:
		lines = append(s.head(width), s.body(width, height-headLines-footLines)...)
		lines = append(lines, s.foot(width)...)
	}
	var drawn []string
	for i := range height {
		var l line
		if i < len(lines) {
			l = lines[i]
		}
		drawn = append(drawn, l.draw(width, s.look))
	}
	return drawn
}

// head says what is there, how much goes on, and what becomes of it.
func (s *screen) head(width int) []line {
	status := &s.frame.Status
	left := line{{" gardu ", bold}}
	if !s.frame.Until.IsZero() {
		left = append(left, span{fmt.Sprintf("%s  revision %d  up %s", status.Version, status.Revision, age(time.Duration(status.Uptime))), plain})
	}
	switch n := len(status.Warnings); n {
	case 0:
	case 1:
		left = append(left, span{"  1 warning", warn})
	default:
		left = append(left, span{fmt.Sprintf("  %d warnings", n), warn})
	}
	right := append(s.state(), span{" ", plain})
	for len(left) > 1 && left.width()+right.width() >= width {
		left = left[:len(left)-1]
	}
	fourth := line{}
	third := between(s.verdicts(), s.flowTable(), width)
	if table := s.flowTable(); table.width() > 0 && s.verdicts().width()+table.width() >= width {
		fourth = append(line{{" ", plain}}, table...)
	}
	return []line{between(left, right, width), s.traffic(width), third, fourth}
}

// state is the time of the numbers, and what keeps them from being new.
func (s *screen) state() line {
	var l line
	if sample := s.frame.sample(); sample != "" {
		l = line{{sample, warn}, {"  ", plain}}
	}
	switch {
	case s.problem != "":
		l = append(l, span{"no numbers", bad}, span{"  ", plain})
	case s.paused:
		l = append(l, span{" paused ", reverse}, span{"  ", plain})
	case s.order != nil:
		l = append(l, span{" order frozen ", reverse}, span{"  ", plain})
	}
	if s.past() {
		return append(l, span{" " + s.pastTime() + " ", reverse})
	}
	if s.frame.Until.IsZero() {
		return append(l, span{"reading ...", dim})
	}
	return append(l, span{s.frame.Until.Format("15:04:05"), plain}, span{"  every " + age(s.every), dim})
}

// traffic is the total, and what it was.
func (s *screen) traffic(width int) line {
	if s.past() {
		return line{{" total ", dim}, {fit(bits(s.frame.Total.Bytes), 12, true), bold}, {fit(packets(s.frame.Total.Packets), 13, true), plain}}
	}
	l := line{{" total ", dim}, {fit(bits(s.frame.Total.Bytes), 12, true), bold}, {fit(packets(s.frame.Total.Packets), 13, true), plain}, {"  ", plain}}
	peak := 0.0
	for _, v := range s.history {
		peak = max(peak, v)
	}
	right := line{{"  peak " + fit(bits(peak), 11, false), dim}}
	room := min(maxHistory, width-l.width()-right.width()-1)
	l = append(l, span{spark(s.history, room), accent})
	return append(l, right...)
}

// verdicts are the parts that were passed, forwarded, dropped.
func (s *screen) verdicts() line {
	total := 0.0
	for _, v := range s.frame.Verdicts {
		total += v.Packets
	}
	l := line{{" ", plain}}
	for _, v := range s.frame.Verdicts {
		if v.Packets == 0 && v.Name != "pass" && v.Name != "drop" {
			continue
		}
		look := verdictStyle(v.Name)
		if v.Packets == 0 {
			look = dim
		}
		l = append(l, span{v.Name + " ", dim}, span{percent(v.Packets, total) + " ", look}, span{short(v.Packets) + "/s  ", plain})
	}
	return l
}

// flowTable says how full the flow table is of flows that live, as status does, and what part of the traffic is in no flow. Records of
// flows that ended stay until others need their place, so that all are in use before long.
func (s *screen) flowTable() line {
	var l line
	if part := s.frame.Unattributed.Packets; part > 0 && part >= s.frame.Total.Packets/100 {
		l = append(l, span{percent(part, s.frame.Total.Packets) + " in no flow  ", warn})
	}
	if table, counted := s.frame.Status.FlowTable(); counted && !s.past() {
		look := plain
		if table.Ratio() >= api.FullAt {
			look = warn
		}
		l = append(l, span{"flow table ", dim}, span{percent(float64(table.Entries), float64(table.Max)) + " ", look}, span{"of " + short(float64(table.Max)) + " ", dim})
	}
	return l
}

func countsFlows(s *api.Status) bool {
	_, counted := s.FlowTable()
	return counted
}

// between puts two parts at the ends of a line; the right one gives way.
func between(left, right line, width int) line {
	room := width - left.width() - right.width()
	if room < 1 {
		return left
	}
	return append(append(left, span{strings.Repeat(" ", room), plain}), right...)
}

// body is the tabs and the table, with what else there is to its side when there is room.
func (s *screen) body(width, height int) []line {
	main := width - 1
	var side []line
	if width >= sideWidth && height >= sideHeight {
		sideWide := max(58, width/3)
		main = width - sideWide - 4
		side = s.side(sideWide, height)
		side = append(side, make([]line, max(0, height-len(side)))...)
	}
	lines := []line{s.tabs()}
	header, rows := s.table(main - 1)
	lines = append(lines, append(line{{" ", plain}}, header...))
	room := max(1, height-len(lines))
	none := len(rows) == 0
	if none {
		rows = []line{{{s.nothing(), dim}}}
	}
	s.selected = max(0, min(s.selected, len(rows)-1))
	s.first = max(0, min(s.first, s.selected, len(rows)-room))
	s.first = max(s.first, s.selected-room+1)
	for i := s.first; i < min(len(rows), s.first+room); i++ {
		l := append(line{{" ", plain}}, rows[i]...)
		if i == s.selected && s.prompt == nil && !none {
			l = line{{" ", plain}, {rows[i].text(main - 1), reverse}}
		}
		lines = append(lines, l)
	}
	return beside(lines, side, main, height)
}

// beside puts two blocks next to each other and fills up to a height.
func beside(left, right []line, width, height int) []line {
	var lines []line
	for i := range height {
		var l line
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			l = append(append(clipped(l, width), span{strings.Repeat(" ", max(0, width-l.width())), plain}, span{"  │ ", dim}), right[i]...)
		}
		lines = append(lines, l)
	}
	return lines
}

// clipped is a line cut to a width.
func clipped(l line, width int) line {
	var out line
	for _, s := range l {
		s.text = cut(s.text, width-out.width())
		out = append(out, s)
	}
	return out
}

// nothing says why a table has no rows.
func (s *screen) nothing() string {
	switch {
	case s.problem != "":
		return s.problem
	case s.frame.Until.IsZero(), s.waiting:
		return "reading ..."
	case views[s.view].what == services:
		return "no services are configured"
	case views[s.view].what == rules:
		return "no rules are configured"
	case views[s.view].what == drops:
		return "nothing was dropped"
	case s.past():
		return "nothing is known of that time"
	case !countsFlows(&s.frame.Status):
		return "flows aren't counted: the configuration has no flows"
	case s.filter != "":
		return "no packets in flows that the filter picks"
	}
	return "no packets"
}

// side are the counters, each with as many lines as there is room for.
func (s *screen) side(width, height int) []line {
	var lines []line
	blocks := []struct {
		what counted
		name string
	}{{services, "services"}, {rules, "rules"}, {drops, "drops by reason"}}
	shown := blocks[:0:0]
	for _, block := range blocks {
		if block.what != views[s.view].what {
			shown = append(shown, block)
		}
	}
	for i, block := range shown {
		room := (height-len(lines))/(len(shown)-i) - 3
		of := *s
		of.choice = choice{view: viewOf(block.what)}
		header, rows := of.table(width)
		lines = append(lines, line{}, line{{block.name, bold}}, header)
		if len(rows) == 0 {
			rows = []line{{{of.nothing(), dim}}}
		}
		lines = append(lines, rows[:min(len(rows), max(1, room))]...)
	}
	return lines
}

func viewOf(what counted) int {
	for i, v := range views {
		if v.what == what {
			return i
		}
	}
	return 0
}

// tabs are the views, and what was chosen besides.
func (s *screen) tabs() line {
	l := line{{" ", plain}}
	for i, v := range views {
		look := plain
		if i == s.view {
			look = reverse
		}
		l = append(l, span{fmt.Sprint(i + 1), accent}, span{" " + v.name + " ", look}, span{" ", plain})
	}
	return l
}

// foot is what picks and sorts, and the keys.
func (s *screen) foot(width int) []line {
	if s.prompt != nil {
		return []line{s.prompt.line(), {{" enter", accent}, {" take it  ", dim}, {"esc", accent}, {" leave it  ", dim}, {s.prompt.hint(), dim}}}
	}
	l := line{{" ", plain}}
	if s.problem != "" {
		l = append(l, span{s.problem + "  ", bad})
	}
	if s.filter != "" {
		l = append(l, span{"filter ", dim}, span{s.filter, bold}, span{"  ", plain})
	}
	if s.group != "" {
		l = append(l, span{"group ", dim}, span{s.group, bold}, span{"  ", plain})
	}
	if views[s.view].what == noCounters {
		l = append(l, span{"sorted by " + sorts[s.sort], dim})
	}
	return []line{l, keyLine(width)}
}

// keyHelp are the keys: in the footer as far as there is room, in help all of them.
var keyHelp = []struct{ keys, word, help string }{
	{"q", "quit", "leave; also ctrl-c"},
	{"?", "help", "this page"},
	{"enter", "into", "show only what the selected line is made of, flow by flow"},
	{"esc", "back", "to what was shown before"},
	{"/", "filter", "pick flows: src in 198.51.100.0/24 and dport 443"},
	{"g", "group", "add flows up by keys: src/24,service"},
	{"s", "sort", "by bytes, packets, flows"},
	{"p", "pause", "keep these numbers; also space"},
	{"f", "freeze", "keep the order of the lines, not the numbers"},
	{"← →", "past", "the minute before, if there is a flows.history, and back; l: now"},
	{"+ -", "slower, faster", "the time between two readings"},
	{"1 - 7", "view", "flows, sources, destinations, ports, services, rules, drops; also tab"},
	{"↑ ↓", "select", "a line; also j k, page up and down, home, end"},
}

func keyLine(width int) line {
	l := line{{" ", plain}}
	for _, k := range keyHelp {
		part := line{{k.keys, accent}, {" " + k.word + "  ", plain}}
		if l.width()+part.width() > width {
			break
		}
		l = append(l, part...)
	}
	return l
}

func (s *screen) helpLines() []line {
	lines := []line{{}, {{" gardu top", bold}, {": what flows do, in bits and packets a second between two readings", plain}}, {}}
	for _, k := range keyHelp {
		lines = append(lines, line{{"  " + fit(k.keys, 8, false), accent}, {k.help, plain}})
	}
	return append(lines, line{},
		line{{" → is what the side that opened a flow sends, ← what comes back. Flows count", plain}},
		line{{" bytes of IP; services, rules and drops those of frames. A share is of the", plain}},
		line{{" bytes of all flows, or of all drops.", plain}},
		line{}, line{{" any key", accent}, {" goes back", plain}})
}

// line is the prompt with a cursor in it.
func (p *prompt) line() line {
	l := line{{" " + p.what + ": ", bold}, {string(p.text[:p.at]), plain}}
	under := " "
	rest := ""
	if p.at < len(p.text) {
		under, rest = string(p.text[p.at]), string(p.text[p.at+1:])
	}
	l = append(l, span{under, reverse}, span{rest, plain})
	if p.problem != "" {
		l = append(l, span{"  " + p.problem, bad})
	}
	return l
}

func (p *prompt) hint() string {
	if p.what == "group" {
		return "src, src/24, dst, dport, proto, service, backend, rule, verdict, ..."
	}
	return "src in 198.51.100.0/24 and dport 443; empty: all"
}
