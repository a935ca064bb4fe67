package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"

	"gardu/ctl/api"
)

// style is an ANSI escape sequence's parameter.
type style string

const (
	plain   style = ""
	bold    style = "1"
	dim     style = "2"
	reverse style = "7"
	good    style = "32"
	warn    style = "33"
	bad     style = "31"
	accent  style = "36"
)

// verdictStyle is the colour of a verdict.
func verdictStyle(verdict string) style {
	switch verdict {
	case "drop", "reject":
		return bad
	case "pass", "forward", "redirect":
		return good
	}
	return plain
}

// look says which styles are drawn.
type look int

const (
	noStyle look = iota // a pipe
	noColor             // a terminal of somebody who set NO_COLOR: bold and reverse tell something still
	anyStyle
)

// paint puts the escape sequences around text.
func (l look) paint(s style, text string) string {
	if s == plain || text == "" || l == noStyle || l == noColor && s >= "3" && s < "4" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// span is text in one style.
type span struct {
	text string
	style
}

// line is one line of the screen.
type line []span

// width is how many columns of the terminal the line takes.
func (l line) width() int {
	n := 0
	for _, s := range l {
		n += ansi.StringWidth(s.text)
	}
	return n
}

// draw makes text of the line, exactly as wide as asked for.
func (l line) draw(width int, look look) string {
	var b strings.Builder
	left := width
	for _, s := range l {
		text := cut(s.text, left)
		left -= ansi.StringWidth(text)
		b.WriteString(look.paint(s.style, text))
	}
	b.WriteString(strings.Repeat(" ", left))
	return b.String()
}

// text is the line without styles, as wide as asked for.
func (l line) text(width int) string { return l.draw(width, noStyle) }

// cut shortens text to a width; what was there to read goes on behind an ellipsis.
func cut(text string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(printable(text), width, "…")
}

// printable keeps what others wrote from moving the cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// fit is text in a field, to the left or the right of it.
func fit(text string, width int, right bool) string {
	text = cut(text, width)
	pad := strings.Repeat(" ", width-ansi.StringWidth(text))
	if right {
		return pad + text
	}
	return text + pad
}

// short writes a number in at most five characters: 0, 0.4, 12, 999, 1.24k, 12.4M.
func short(n float64) string {
	switch {
	case n <= 0:
		return "0"
	case n < 0.05:
		return "<0.1"
	case n < 9.95 && n != float64(int(n)):
		return strconv.FormatFloat(n, 'f', 1, 64)
	case n < 999.5:
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	power := 0
	for n >= 999.5 && power < 7 {
		n /= 1000
		power++
	}
	decimals := 0
	switch {
	case n < 9.995:
		decimals = 2
	case n < 99.95:
		decimals = 1
	}
	return strconv.FormatFloat(n, 'f', decimals, 64) + []string{"", "k", "M", "G", "T", "P", "E", "Z"}[power]
}

// bits writes bytes a second as bits, with the unit.
func bits(bytes float64) string { return withUnit(8*bytes, "bit/s") }

func packets(n float64) string { return withUnit(n, "pkt/s") }

func withUnit(n float64, unit string) string {
	text := short(n)
	at := len(strings.TrimRight(text, "kMGTPEZ"))
	return text[:at] + " " + text[at:] + unit
}

func percent(part, whole float64) string {
	switch {
	case whole <= 0 || part <= 0:
		return "0%"
	case part/whole < 0.001:
		return "<0.1%"
	case part/whole < 0.0995:
		return strconv.FormatFloat(100*part/whole, 'f', 1, 64) + "%"
	}
	return strconv.FormatFloat(min(100, 100*part/whole), 'f', 0, 64) + "%"
}

// bar is a part of a whole as a bar with eighths, as wide as told.
func bar(part, whole float64, width int) string {
	if whole <= 0 || part <= 0 || width <= 0 {
		return ""
	}
	eighths := int(min(1, part/whole)*float64(width)*8 + 0.5)
	text := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		text += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return text
}

// spark draws the last values, the newest to the right, between 0 and the largest.
func spark(values []float64, width int) string {
	width = max(0, width)
	values = values[max(0, len(values)-width):]
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", max(0, width-len(values))))
	for _, v := range values {
		level := 0
		if most > 0 && v > 0 {
			level = min(8, 1+int(v/most*7.99))
		}
		b.WriteRune([]rune(" ▁▂▃▄▅▆▇█")[level])
	}
	return b.String()
}

// age writes a duration with its two largest units: 1d2h, 5m30s.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// upText is how many backends of a service are up.
func upText(s api.Service) string { return fmt.Sprintf("%d/%d up", s.BackendsUp, s.Backends) }
