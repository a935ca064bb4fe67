package config

import (
	"strconv"
	"strings"
)

// didYouMean names the known word that is closest to a wrong one; "" if none is close.
func didYouMean(word string, known []string) string {
	best, bestDistance := "", min(len(word)/3, 2)
	for _, candidate := range known {
		if d := distance(strings.ToLower(word), candidate, bestDistance); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b, bytewise. It
// returns something above limit as soon as the length alone says so.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// quoted makes any bytes of a user safe to print, and short.
func quoted(text string) string {
	return strconv.Quote(shorten(text))
}

func shorten(text string) string {
	const most = 60
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
