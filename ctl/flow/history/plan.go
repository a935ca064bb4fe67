package history

import "time"

// levels are the lengths of intervals, in seconds, each a whole number of the one before.
const levelCount = 4

var levels = [levelCount]int64{60, 300, 3600, 86400}

// floor is when the interval of that length begins in which a time lies.
func floor(at, length int64) int64 { return at - modulo(at, length) }

// span is intervals of one level that follow each other: from <= time < to.
type span struct {
	level    int
	from, to int64
}

// cover finds the fewest intervals that together are the time from since to until; of each level there are those that begin at
// kept or later. Where only longer ones are left the time is wider than asked for, and where nothing is left it is missing.
func cover(since, until time.Time, kept [levelCount]int64) []span {
	from, end := floor(since.Unix(), levels[0]), until.Unix()
	if until.Nanosecond() > 0 {
		end++
	}
	var spans []span
	for at := from; at < end; {
		level := longest(at, end, kept)
		if level < 0 {
			if level = finest(at, kept); level < 0 {
				at = firstKept(kept)
				continue
			}
			at = floor(at, levels[level]) // only at the beginning
		}
		next := at + levels[level]
		if n := len(spans); n > 0 && spans[n-1].level == level {
			spans[n-1].to = next
		} else {
			spans = append(spans, span{level, at, next})
		}
		at = next
	}
	return spans
}

// longest is the level of the longest interval that begins at a time and ends before end; -1 if there is none.
func longest(at, end int64, kept [levelCount]int64) int {
	end = floor(end+levels[0]-1, levels[0])
	for level := levelCount - 1; level >= 0; level-- {
		if length := levels[level]; at >= kept[level] && modulo(at, length) == 0 && at+length <= end {
			return level
		}
	}
	return -1
}

// finest is the level of the shortest intervals that there are at a time; -1 if there are none.
func finest(at int64, kept [levelCount]int64) int {
	for level := range levelCount {
		if at >= kept[level] {
			return level
		}
	}
	return -1
}

func firstKept(kept [levelCount]int64) int64 {
	first := kept[0]
	for _, at := range kept {
		first = min(first, at)
	}
	return first
}
