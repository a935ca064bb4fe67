package top

import "strings"

// column is one column of a table. A narrow terminal does without those of a high rank.
type column[T any] struct {
	title    string
	rank     int
	min, max int // width; the widths of all between 80 and 200 columns follow from these, so that nothing jumps
	right    bool
	value    func(row *T, width int) span
}

const gap = 2

// fitColumns picks the columns that there is room for and gives each its width.
func fitColumns[T any](columns []column[T], width int) (chosen []column[T], widths []int) {
	for limit := 9; ; limit-- {
		chosen, widths = nil, nil
		left := width + gap
		for _, c := range columns {
			if c.rank <= limit {
				chosen, widths = append(chosen, c), append(widths, c.min)
				left -= c.min + gap
			}
		}
		if left < 0 && limit > 0 {
			continue
		}
		spread(chosen, widths, left)
		return chosen, widths
	}
}

// spread gives what is left to columns that take it, a character after the other, so that all get about the same.
func spread[T any](columns []column[T], widths []int, left int) {
	for more := true; more && left > 0; {
		more = false
		for i, c := range columns {
			if left > 0 && widths[i] < c.max {
				widths[i]++
				left--
				more = true
			}
		}
	}
}

// drawTable makes a header and a line a row.
func drawTable[T any](columns []column[T], rows []T, width int) (header line, lines []line) {
	chosen, widths := fitColumns(columns, width)
	between := span{strings.Repeat(" ", gap), plain}
	for i, c := range chosen {
		if i > 0 {
			header = append(header, between)
		}
		header = append(header, span{fit(c.title, widths[i], c.right), dim})
	}
	for r := range rows {
		var l line
		for i, c := range chosen {
			if i > 0 {
				l = append(l, between)
			}
			s := c.value(&rows[r], widths[i])
			s.text = fit(s.text, widths[i], c.right)
			l = append(l, s)
		}
		lines = append(lines, l)
	}
	return header, lines
}

// number is a column of a rate or a count.
func number[T any](title string, rank int, get func(*T) float64) column[T] {
	width := max(7, len([]rune(title)))
	return column[T]{title, rank, width, width, true, func(row *T, _ int) span {
		n := get(row)
		if n == 0 {
			return span{"0", dim}
		}
		return span{short(n), plain}
	}}
}

// share is a column of a part of a whole, with a bar when there is room.
func share[T any](rank int, get func(*T) (part, whole float64)) column[T] {
	return column[T]{"SHARE", rank, 5, 40, false, func(row *T, width int) span {
		part, whole := get(row)
		text := fit(percent(part, whole), 5, true)
		if width > 8 {
			text += " " + bar(part, whole, width-6)
		}
		return span{text, accent}
	}}
}

// groupColumns begins with the keys by which flows are added up; an end's address and port are one.
func groupColumns(keys []string, total float64) []column[Group] {
	var columns []column[Group]
	for i := 0; i < len(keys); i++ {
		key := keys[i]
		c := keyColumn(key)
		port := map[string]string{"src": "sport", "dst": "dport"}[key]
		withPort := port != "" && i+1 < len(keys) && keys[i+1] == port
		if withPort {
			c.min, c.max = 19, 47
			i++
		}
		first := len(columns) == 0
		c.value = func(g *Group, _ int) span {
			switch {
			case g.Keys == nil && first:
				return span{"(all others)", dim}
			case g.Keys == nil:
				return span{}
			}
			text, known := g.Keys[key]
			if !known {
				return span{"(various)", dim}
			}
			if withPort {
				text = endpoint(text, g.Keys[port])
			}
			switch {
			case text == "":
				return span{"-", dim}
			case key == "verdict":
				return span{text, verdictStyle(text)}
			}
			return span{text, plain}
		}
		columns = append(columns, c)
	}
	return append(columns,
		number("BIT/S →", 0, func(g *Group) float64 { return 8 * g.Sent.Bytes }),
		number("← BIT/S", 0, func(g *Group) float64 { return 8 * g.Reply.Bytes }),
		number("PKT/S →", 2, func(g *Group) float64 { return g.Sent.Packets }),
		number("← PKT/S", 4, func(g *Group) float64 { return g.Reply.Packets }),
		number("FLOWS", flowsRank(keys), func(g *Group) float64 { return float64(g.Flows) }),
		share(5, func(g *Group) (float64, float64) { return g.Both().Bytes, total }),
	)
}

// flowsRank leaves the number of flows out first where a group is hardly more than one.
func flowsRank(keys []string) int {
	for _, key := range keys {
		if key == "sport" {
			return 8
		}
	}
	return 1
}

// keyColumn says how wide a key's column is and how soon it gives way.
func keyColumn(key string) column[Group] {
	name, _, _ := strings.Cut(key, "/")
	c := column[Group]{title: strings.ToUpper(key), min: 10, max: 24}
	switch name {
	case "src", "dst":
		c.title = map[string]string{"src": "SOURCE", "dst": "DESTINATION"}[name] + strings.TrimPrefix(key, name)
		c.min, c.max = 15, 43
	case "sport", "dport", "vlan":
		c.min, c.max = 5, 5
	case "proto":
		c.min, c.max = 5, 6
	case "verdict":
		c.min, c.max, c.rank = 8, 8, 3
	case "service":
		c.rank = 4
	case "backend":
		c.rank = 6
	case "rule":
		c.rank = 5
	}
	return c
}

// endpoint is an address with its port, where it has one.
func endpoint(addr, port string) string {
	switch {
	case port == "0" || port == "":
		return addr
	case strings.Contains(addr, ":"):
		return "[" + addr + "]:" + port
	}
	return addr + ":" + port
}

func ruleColumns() []column[Counted] {
	return []column[Counted]{
		{"RULE", 0, 14, 32, false, func(c *Counted, _ int) span { return span{c.Name, plain} }},
		{"ACTION", 1, 8, 10, false, func(c *Counted, _ int) span { return span{c.Word, verdictStyle(c.Word)} }},
		number("PKT/S", 0, func(c *Counted) float64 { return c.Packets }),
		number("BIT/S", 0, func(c *Counted) float64 { return 8 * c.Bytes }),
		number("DECIDES/S", 3, func(c *Counted) float64 { return c.Other }),
	}
}

func serviceColumns() []column[Counted] {
	return []column[Counted]{
		{"SERVICE", 0, 14, 32, false, func(c *Counted, _ int) span { return span{c.Name, plain} }},
		{"BACKENDS", 1, 8, 10, false, func(c *Counted, _ int) span { return span{c.Word, upStyle(c.Word)} }},
		number("PKT/S", 2, func(c *Counted) float64 { return c.Packets }),
		number("BIT/S", 0, func(c *Counted) float64 { return 8 * c.Bytes }),
		number("NEW/S", 1, func(c *Counted) float64 { return c.Flows }),
	}
}

// upStyle warns of "1/2 up" and more of "0/2 up".
func upStyle(word string) style {
	up, all, _ := strings.Cut(strings.TrimSuffix(word, " up"), "/")
	switch {
	case up == all:
		return good
	case up == "0":
		return bad
	}
	return warn
}

func dropColumns(total float64) []column[Counted] {
	return []column[Counted]{
		{"REASON", 0, 14, 32, false, func(c *Counted, _ int) span { return span{c.Name, plain} }},
		{"VERDICT", 1, 8, 10, false, func(c *Counted, _ int) span { return span{c.Word, verdictStyle(c.Word)} }},
		number("PKT/S", 0, func(c *Counted) float64 { return c.Packets }),
		number("BIT/S", 0, func(c *Counted) float64 { return 8 * c.Bytes }),
		share(4, func(c *Counted) (float64, float64) { return c.Packets, total }),
	}
}
