package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/model"
)

var histories = object[model.History]{
	what: "history",
	pos:  func(h *model.History) *model.Position { return &h.Pos },
	keys: []key[model.History]{
		in("dir", filePath, func(h *model.History) *string { return &h.Dir },
			"the directory of its file, relative to this one or absolute; default: history, where the daemon keeps its state"),
		in("keep", keeps.kind(), func(h *model.History) *model.Keep { return &h.Keep },
			"how long it is kept, by the length of intervals").orDefaults(),
		in("max-size", byteSize(10e6, 1e12), func(h *model.History) *uint64 { return &h.MaxSize },
			"the disk that it may take, 10MB to 1000GB and at least 64kB for each of top; what is oldest goes first").or("1GB"),
		in("top", whole[int](10, 5000), func(h *model.History) *int { return &h.Top },
			"sources, destinations, pairs of them, and kinds of an interval that are kept by themselves, 10 to 5000").or("500"),
	},
}

func enabledHistory(h model.History) model.History {
	h.Enabled = true
	return h
}

var keeps = object[model.Keep]{
	what: "keep",
	pos:  func(k *model.Keep) *model.Position { return &k.Pos },
	keys: []key[model.Keep]{
		in("1m", days(time.Hour, maxKeep), func(k *model.Keep) *time.Duration { return &k.Minutes },
			"how long what flows did is kept by the minute, 1h to 3650d").or("24h"),
		in("5m", days(time.Hour, maxKeep), func(k *model.Keep) *time.Duration { return &k.Fives },
			"how long by five minutes, 1m's to 3650d").or("7d"),
		in("1h", days(time.Hour, maxKeep), func(k *model.Keep) *time.Duration { return &k.Hours },
			"how long by the hour, 5m's to 3650d").or("90d"),
	},
}

const (
	day     = 24 * time.Hour
	maxKeep = 3650 * day
)

var daysRegexp = regexp.MustCompile(`^([0-9]+)d(.*)$`)

// days is a long duration from lo to hi, which may have days.
func days(lo, hi time.Duration) kind[time.Duration] {
	s := schema{"type": "string", "pattern": `^([0-9]+d)?([0-9]+(\.[0-9]+)?(ms|s|m|h))*$`, "minLength": 2}
	return scalar(fmt.Sprintf("%s to %s, such as 24h, 7d or 1d12h", formatDays(lo), formatDays(hi)), s, func(word string) (time.Duration, error) {
		rest, whole := word, time.Duration(0)
		if parts := daysRegexp.FindStringSubmatch(word); parts != nil {
			number, err := strconv.ParseUint(parts[1], 10, 16)
			if err != nil {
				return 0, fmt.Errorf("%s is out of range", shorten(word))
			}
			whole, rest = time.Duration(number)*day, parts[2]
		}
		value := time.Duration(0)
		var err error
		if rest != "" {
			value, err = time.ParseDuration(rest)
		}
		switch {
		case err != nil && !strings.ContainsFunc(word, func(r rune) bool { return (r < '0' || r > '9') && r != '.' }):
			return 0, fmt.Errorf("%s has no unit", quoted(word))
		case err != nil || word == "":
			return 0, fmt.Errorf("%s is not a duration", quoted(word))
		case whole+value < lo || whole+value > hi:
			return 0, fmt.Errorf("%s is out of range", shorten(word))
		}
		return whole + value, nil
	})
}

// formatDays prints a duration as people write it: 7d, not 168h0m0s.
func formatDays(d time.Duration) string {
	if d > day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return formatPeriod(d)
}

// checkHistory finds what doesn't fit together.
func (d *decoder) checkHistory(h *model.History) {
	if !h.Enabled || d.broken[h.Pos] {
		return
	}
	if h.Dir != "" {
		h.Dir = absolute(d.dir, h.Dir)
	}
	for _, pair := range []struct {
		short, long string
		less, more  time.Duration
	}{{"1m", "5m", h.Keep.Minutes, h.Keep.Fives}, {"5m", "1h", h.Keep.Fives, h.Keep.Hours}} {
		if pair.less > pair.more {
			d.fail(d.valueAt(h.Keep.Pos, pair.short), "at most as long as keep."+pair.long, "intervals of %s are kept longer than those of %s, %s",
				pair.short, pair.long, formatDays(pair.more))
		}
	}
	if least := uint64(h.Top) << 16; h.MaxSize < least {
		d.fail(d.valueAt(h.Pos, "max-size"), "at least "+formatSize((least+1e6-1)/1e6*1e6), "%s is too little for a top of %d",
			formatSize(h.MaxSize), h.Top)
	}
}
