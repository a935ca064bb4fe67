package main

import (
	"fmt"
	"math"
	"strings"
)

// series is a line of a plot: cost against size.
type series struct {
	Name   string  `json:"name"`
	Points []point `json:"points"`
}

type point struct {
	Size float64 `json:"size"`
	Cost float64 `json:"cost"`
}

const (
	plotWidth, plotHeight = 720, 420
	plotLeft, plotRight   = 64, 190 // right of it are the names
	plotTop, plotBottom   = 36, 48
)

var colours = []string{"#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#a16207", "#be123c"}

// axis maps values to pixels by their logarithm, from the decade below the least to the one above the most.
type axis struct{ low, high, from, to float64 }

func newAxis(values []float64, from, to float64) axis {
	a := axis{math.Inf(1), math.Inf(-1), from, to}
	for _, v := range values {
		a.low, a.high = min(a.low, math.Floor(math.Log10(v))), max(a.high, math.Ceil(math.Log10(v)))
	}
	if a.low == a.high {
		a.high++
	}
	return a
}

func (a axis) place(v float64) float64 {
	return a.from + (math.Log10(v)-a.low)/(a.high-a.low)*(a.to-a.from)
}

// plot draws series on two log axes as SVG. Points without a positive size and cost are left out.
func plot(title, what string, all []series) string {
	var sizes, costs []float64
	for _, s := range all {
		for _, p := range s.Points {
			if p.Size > 0 && p.Cost > 0 {
				sizes, costs = append(sizes, p.Size), append(costs, p.Cost)
			}
		}
	}
	if len(sizes) == 0 {
		return ""
	}
	x := newAxis(sizes, plotLeft, plotWidth-plotRight)
	y := newAxis(costs, plotHeight-plotBottom, plotTop)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/><text x="%d" y="20" font-size="14">%s</text>`+"\n", plotWidth, plotHeight, plotLeft, escape(title))
	line := func(x1, y1, x2, y2 float64, colour string) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, colour)
	}
	for e := x.low; e <= x.high; e++ {
		at := x.place(math.Pow(10, e))
		line(at, y.from, at, y.to, "#ddd")
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", at, y.from+16, decade(e))
	}
	for e := y.low; e <= y.high; e++ {
		at := y.place(math.Pow(10, e))
		line(x.from, at, x.to, at, "#ddd")
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n", x.from-6, at+4, decade(e))
	}
	fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", (x.from+x.to)/2, plotHeight-8, escape(what))
	fmt.Fprintf(&b, `<text x="14" y="%.1f" transform="rotate(-90 14 %.1f)" text-anchor="middle">ns a packet, net</text>`+"\n", (y.from+y.to)/2, (y.from+y.to)/2)
	for i, s := range all {
		colour := colours[i%len(colours)]
		var path []string
		for _, p := range s.Points {
			if p.Size > 0 && p.Cost > 0 {
				path = append(path, fmt.Sprintf("%.1f,%.1f", x.place(p.Size), y.place(p.Cost)))
			}
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), colour)
		for _, p := range path {
			cx, cy, _ := strings.Cut(p, ",")
			fmt.Fprintf(&b, `<circle cx="%s" cy="%s" r="3" fill="%s"/>`+"\n", cx, cy, colour)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="%s">%s</text>`+"\n", x.to+10, plotTop+14+18*i, colour, escape(s.Name))
	}
	return b.String() + "</svg>\n"
}

func decade(e float64) string {
	switch {
	case e >= 6:
		return fmt.Sprintf("%gM", math.Pow(10, e-6))
	case e >= 3:
		return fmt.Sprintf("%gk", math.Pow(10, e-3))
	}
	return fmt.Sprintf("%g", math.Pow(10, e))
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
