package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// style is an ANSI escape sequence's parameter.
type style string

const (
	plainStyle style = ""
	bold       style = "1"
	dim        style = "2"
	good       style = "32"
	warn       style = "33"
	bad        style = "31"
)

// paint wraps text in the style where color is allowed.
func (s style) paint(color bool, text string) string {
	if !color || s == plainStyle || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// verdictStyle is the colour of a verdict, wherever it is shown.
func verdictStyle(verdict string) style {
	switch verdict {
	case "drop", "reject":
		return bad
	case "pass", "forward", "redirect":
		return good
	}
	return plainStyle
}

// bytesText writes a size with three digits and a unit of 1000.
func bytesText(n uint64) string { return scaled(float64(n)) + "B" }

// rateText writes bits a second likewise.
func rateText(bits float64) string { return scaled(bits) + "bit/s" }

// scaled writes a number with three digits, a space and the prefix of its unit.
func scaled(value float64) string {
	if value < 999.5 {
		return strconv.FormatFloat(value, 'f', 0, 64) + " "
	}
	power := 0
	for value >= 999.5 {
		value /= 1000
		power++
	}
	decimals := 0
	switch {
	case value < 9.995:
		decimals = 2
	case value < 99.95:
		decimals = 1
	}
	return strconv.FormatFloat(value, 'f', decimals, 64) + " " + []string{"", "k", "M", "G", "T", "P", "E", "Z"}[power]
}

// thousands writes a number in groups of three: 1,000,000.
func thousands(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// span writes a duration with its two largest units: 1d2h, 5m30s.
func span(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	d = d.Round(time.Second)
	var parts []string
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		n := d / unit.length
		d -= n * unit.length
		if n > 0 {
			parts = append(parts, fmt.Sprint(int64(n), unit.name))
		} else if len(parts) > 0 {
			break
		}
		if len(parts) == 2 {
			break
		}
	}
	return strings.Join(parts, "")
}

// proseWidth is how wide text is where no terminal says how wide it is.
const proseWidth = 80

// width is how wide text for people may be.
func (a *app) width() int {
	if file, ok := a.stdout.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return max(40, int(size.Col))
		}
	}
	return proseWidth
}

// fold breaks text into lines narrower than width. Before all but the first, before which there is as much, comes a margin. A word that
// is longer stays whole.
func fold(text, margin string, width int) string {
	var b strings.Builder
	at := utf8.RuneCountInString(margin)
	for i, word := range strings.Fields(text) {
		size := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+size >= width:
			b.WriteString("\n" + margin)
			at = utf8.RuneCountInString(margin)
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += size
	}
	return b.String()
}

// percent writes a part of a whole.
func percent(ratio float64) string {
	if ratio > 0 && ratio < 0.01 {
		return "<1%"
	}
	return strconv.FormatFloat(ratio*100, 'f', 0, 64) + "%"
}
