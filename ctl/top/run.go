package top

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"gardu/ctl/api"
	"gardu/ctl/expr"
)

// Options are what was asked for on the command line.
type Options struct {
	Filter string
	Group  string // empty: the flows one by one
	Sort   string // one of api.TopSorts; empty: bytes
	Every  time.Duration
	Color  bool
	At     time.Time // what was then, by the history; zero: what is now
	// Unreachable says in a line what an error of the source means.
	Unreachable func(error) string
}

// Run shows the screen on a terminal until somebody leaves it or ctx ends.
func Run(ctx context.Context, source Source, options Options, in io.Reader, out io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	m := newLive(ctx, source, options)
	program := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out))
	m.send = func(msg tea.Msg) { program.Send(msg) }
	_, err := program.Run()
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) { // that is how it ends
		return nil
	}
	return err
}

// live is the screen and what moves it.
type live struct {
	screen
	width, height int
	back          []choice // what esc goes back to
	latest        Frame    // while paused, what isn't shown

	ctx     context.Context
	source  Source
	explain func(error) string
	send    func(tea.Msg)
	stop    context.CancelFunc // of what is followed now
	follows int                // counts what was followed so far
}

const (
	maxBack    = 32
	maxHistory = 240
	retryAfter = time.Second
)

func newLive(ctx context.Context, source Source, options Options) *live {
	m := &live{ctx: ctx, source: source, explain: options.Unreachable, stop: func() {}}
	m.choice = choice{filter: options.Filter, group: options.Group}
	m.at, m.every, m.sort, m.look = options.At, options.Every, max(0, slices.Index(sorts, options.Sort)), noColor
	if options.Color {
		m.look = anyStyle
	}
	return m
}

// frameMsg and problemMsg come from what is followed; those of what was followed before are late.
type frameMsg struct {
	follow int
	frame  Frame
}

type problemMsg struct {
	follow int
	err    error
}

// Init begins to follow.
func (m *live) Init() tea.Cmd { return m.follow() }

// follow asks for what is chosen now, instead of what was chosen before.
func (m *live) follow() tea.Cmd {
	m.stop()
	ctx, stop := context.WithCancel(m.ctx)
	m.stop, m.follows = stop, m.follows+1
	number, query, at := m.follows, m.query(), m.at
	if m.past() {
		return func() tea.Msg {
			f, err := Past(ctx, m.source, query, at)
			if err != nil {
				return problemMsg{number, err}
			}
			return frameMsg{number, f}
		}
	}
	return func() tea.Msg {
		for ctx.Err() == nil {
			err := Follow(ctx, m.source, query, func(f Frame) error {
				m.send(frameMsg{number, f})
				return nil
			})
			if ctx.Err() == nil && err != nil {
				m.send(problemMsg{number, err})
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		}
		return nil
	}
}

// Follow calls yield with what happens, until ctx ends, the source does, or yield returns an error.
func Follow(ctx context.Context, source Source, query api.TopQuery, yield func(Frame) error) error {
	before, err := readCounters(ctx, source)
	if err != nil {
		return err
	}
	return source.Top(ctx, query, func(sample api.TopSample) error {
		now, err := readCounters(ctx, source)
		if err != nil {
			return err
		}
		f := frame(before, now, sample)
		before = now
		return yield(f)
	})
}

// query is what is chosen, as the source takes it. The tables of counters show no flows.
func (m *live) query() api.TopQuery {
	q := api.TopQuery{Filter: m.filter, Group: strings.Join(m.keys(), ","), Sort: sorts[m.sort], Limit: api.DefaultTopLimit, Every: m.every}
	if q.Group == "" {
		q.Group, q.Limit = "verdict", 1
	}
	return q
}

// Update takes what happened: a key, a size, numbers.
func (m *live) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case frameMsg:
		if msg.follow == m.follows {
			m.show(msg.frame)
		}
	case problemMsg:
		if msg.follow == m.follows {
			m.problem = firstLine(m.explain(msg.err))
		}
	case tea.PasteMsg:
		if m.prompt != nil {
			m.prompt.insert(msg.Content)
		}
	case tea.KeyPressMsg:
		return m, m.key(msg)
	}
	return m, nil
}

func firstLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return text
}

func (m *live) show(f Frame) {
	m.problem, m.waiting = "", false
	if !m.past() {
		m.history = append(m.history, f.Total.Bytes)
		m.history = m.history[max(0, len(m.history)-maxHistory):]
	}
	m.latest = f
	if !m.paused {
		m.frame = f
	}
}

// View draws the screen.
func (m *live) View() tea.View {
	view := tea.NewView(strings.Join(m.draw(m.width, m.height), "\n"))
	view.AltScreen, view.WindowTitle = true, "gardu top"
	return view
}

// key does what a key is for.
func (m *live) key(msg tea.KeyPressMsg) tea.Cmd {
	key := msg.String()
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case m.help:
		m.help = false
		return nil
	case m.prompt != nil:
		return m.typed(key, msg.Text)
	}
	switch key {
	case "q":
		return tea.Quit
	case "?", "h":
		m.help = true
	case "up", "k":
		m.selected--
	case "down", "j":
		m.selected++
	case "pgup":
		m.selected -= m.height / 2
	case "pgdown":
		m.selected += m.height / 2
	case "home":
		m.selected = 0
	case "end":
		m.selected = 1 << 20
	case "p", "space":
		if m.paused = !m.paused; !m.paused {
			m.frame = m.latest
		}
	case "f":
		if m.order != nil {
			m.order = nil
		} else {
			m.order = slices.Clone(m.frame.Groups)
		}
	case "s":
		m.sort = (m.sort + 1) % len(sorts)
		m.order = nil
		return m.follow()
	case "left":
		return m.goTo(-1)
	case "right":
		return m.goTo(1)
	case "l":
		if m.past() {
			m.at = time.Time{}
			return m.change(m.choice)
		}
	case "+", "-":
		return m.pace(key)
	case "/":
		m.prompt = newPrompt("filter", m.filter)
	case "g":
		m.prompt = newPrompt("group", strings.Join(m.keys(), ","))
	case "enter":
		return m.into()
	case "esc", "backspace":
		return m.goBack()
	case "tab":
		return m.turnTo((m.view + 1) % len(views))
	case "shift+tab":
		return m.turnTo((m.view + len(views) - 1) % len(views))
	default:
		if len(key) == 1 && key[0] >= '1' && int(key[0]-'1') < len(views) {
			return m.turnTo(int(key[0] - '1'))
		}
	}
	return nil
}

// goTo shows what was before, or after that.
func (m *live) goTo(direction int) tea.Cmd {
	before := m.at
	m.step(direction, time.Now())
	if m.at.Equal(before) {
		return nil
	}
	m.frame.Since, m.frame.Until = time.Time{}, time.Time{}
	return m.change(m.choice)
}

// paces are the times between two readings that + and - go through.
var paces = []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute}

func (m *live) pace(key string) tea.Cmd {
	next := m.every
	for _, pace := range paces {
		if key == "+" && pace > m.every {
			next = pace
			break
		}
		if key == "-" && pace < m.every {
			next = pace
		}
	}
	if next == m.every {
		return nil
	}
	m.every = next
	return m.follow()
}

// turnTo shows another view of what the filter picks.
func (m *live) turnTo(view int) tea.Cmd {
	if view == m.view && m.group == "" {
		return nil
	}
	return m.choose(choice{view: view, filter: m.filter})
}

// into shows what the selected line is made of.
func (m *live) into() tea.Cmd {
	keys := m.rowKeys(m.selected)
	if keys == nil || m.view == 0 && m.group == "" {
		return nil
	}
	return m.choose(m.choice.into(keys))
}

// choose shows something else, and remembers the way back.
func (m *live) choose(next choice) tea.Cmd {
	if m.back = append(m.back, m.choice); len(m.back) > maxBack {
		m.back = m.back[1:]
	}
	return m.change(next)
}

func (m *live) goBack() tea.Cmd {
	if len(m.back) == 0 {
		return nil
	}
	last := m.back[len(m.back)-1]
	m.back = m.back[:len(m.back)-1]
	return m.change(last)
}

// change shows other groups: those of the frame are of the choice before.
func (m *live) change(next choice) tea.Cmd {
	m.choice = next
	m.selected, m.first, m.order, m.paused = 0, 0, nil, false
	m.frame.Groups, m.latest.Groups = nil, nil
	m.waiting = m.keys() != nil
	return m.follow()
}

func newPrompt(what, text string) *prompt {
	p := &prompt{what: what}
	p.insert(text)
	return p
}

// maxTyped is as much as an expression may have.
const maxTyped = 4096

func (p *prompt) insert(text string) {
	typed := []rune(printable(strings.TrimRight(text, "\r\n")))
	if len(p.text)+len(typed) > maxTyped {
		return
	}
	p.text = slices.Insert(p.text, p.at, typed...)
	p.at += len(typed)
	p.problem = ""
}

// typed edits the prompt.
func (m *live) typed(key, text string) tea.Cmd {
	p := m.prompt
	switch key {
	case "enter":
		return m.entered()
	case "esc":
		m.prompt = nil
	case "left":
		p.at = max(0, p.at-1)
	case "right":
		p.at = min(len(p.text), p.at+1)
	case "home", "ctrl+a":
		p.at = 0
	case "end", "ctrl+e":
		p.at = len(p.text)
	case "backspace":
		if p.at > 0 {
			p.text, p.at = slices.Delete(p.text, p.at-1, p.at), p.at-1
		}
	case "delete", "ctrl+d":
		if p.at < len(p.text) {
			p.text = slices.Delete(p.text, p.at, p.at+1)
		}
	case "ctrl+u":
		p.text, p.at = p.text[p.at:], 0
	case "ctrl+k":
		p.text = p.text[:p.at]
	case "ctrl+w":
		before := strings.TrimRight(string(p.text[:p.at]), " ")
		from := len([]rune(before[:strings.LastIndex(before, " ")+1]))
		p.text, p.at = slices.Delete(p.text, from, p.at), from
	default:
		p.insert(text)
	}
	return nil
}

// entered takes what was typed, or says what is wrong with it.
func (m *live) entered() tea.Cmd {
	p, next := m.prompt, m.choice
	text := strings.TrimSpace(string(p.text))
	var err error
	if p.what == "filter" {
		next.filter = text
		_, err = expr.Parse(text)
	} else if next.group = ""; text != views[m.view].group {
		next.group = text
		_, err = expr.ParseGroup(text)
	}
	if wrong, ok := errors.AsType[*expr.Error](err); ok {
		p.problem, p.at = wrong.Message, len([]rune(string(p.text)[:min(wrong.Offset, len(string(p.text)))]))
		return nil
	}
	m.prompt = nil
	if p.what == "group" && next.group != "" && views[m.view].group == "" {
		next.view = 0 // the tables of counters have no groups
	}
	if next == m.choice {
		return nil
	}
	return m.choose(next)
}
