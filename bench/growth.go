package main

import (
	"fmt"
	"math"
)

// structure is something that may cost more the larger it is.
type structure struct {
	figure string // which plot it is in
	name   string
	points []sized
}

// sized is a size, and the value that was measured with it.
type sized struct {
	size  float64
	value string
}

// figures are the plots, in their order, with what is on the axis.
var figures = []struct{ name, title, axis string }{
	{"rules", "cost against the number of rules", "rules"},
	{"sets", "cost against the entries of a set", "entries"},
	{"services", "cost against the number of services", "services"},
	{"backends", "cost against the backends of a service", "backends"},
	{"flows", "cost against the number of flows", "flows"},
}

// structures are what growth is looked at in.
func structures() []structure {
	var list []structure
	rules := structure{figure: "rules", name: "rules of two fields"}
	for _, s := range ruleSizes {
		rules.points = append(rules.points, sized{float64(s.n), "net two fields, " + s.name})
	}
	nft := structure{figure: "rules", name: "nft, one by one"}
	for _, n := range nftSizes {
		nft.points = append(nft.points, sized{float64(n.n), "nft net of nft, " + n.name + " rules"})
	}
	list = append(list, rules, nft)
	for _, kind := range []string{"acl", "fw", "ipc"} {
		list = append(list, structure{"rules", "ClassBench " + kind, []sized{{1000, "net " + kind + " 1,000"}, {10_000, "net " + kind + " 10,000"}}})
	}
	set := structure{figure: "sets", name: "prefixes, half hits"}
	for _, s := range setSizes {
		set.points = append(set.points, sized{float64(s.n), "net set of " + s.name})
	}
	services, backends := structure{figure: "services", name: "ipip, 64k flows"}, structure{figure: "backends", name: "ipip, 64k flows"}
	for _, s := range farmSizes {
		if s.backends == 16 {
			services.points = append(services.points, sized{float64(s.services), "net " + s.name})
		}
		if s.services == 1 {
			backends.points = append(backends.points, sized{float64(s.backends), "net " + s.name})
		}
	}
	list = append(list, set, services, backends)
	for _, kind := range []string{"flows", "flows, IPv6", "ipip", "nat", "all", "state"} {
		s := structure{figure: "flows", name: kind}
		for _, n := range flowCounts {
			s.points = append(s.points, sized{float64(n.flows), "net " + kind + ", " + n.name})
		}
		if kind == "flows" {
			s.points = append(s.points, sized{1_000_000, "net flows, 1M flows"})
		}
		list = append(list, s)
	}
	return list
}

// growth is how the cost of a structure depends on its size.
type growth struct {
	Figure string `json:"figure"`
	series
	Shape string  `json:"shape"` // flat, log n, linear, steps; "": too few sizes were measured
	Base  float64 `json:"base"`  // ns
	Step  float64 `json:"step"`  // ns for each doubling, for each further one, or from the size From on
	From  float64 `json:"from,omitempty"`
	Error float64 `json:"error"` // root of the mean square of what is left, to the cost
}

// flatWithin is how far costs may lie apart and still be called flat: what the machine's noise is.
const flatWithin = 0.15

// grow fits each structure.
func grow(list []structure, values map[string]float64) []growth {
	var all []growth
	for _, s := range list {
		g := growth{Figure: s.figure, series: series{Name: s.name}}
		for _, p := range s.points {
			if cost, ok := values[p.value]; ok && cost > 0 {
				g.Points = append(g.Points, point{p.size, cost})
			}
		}
		if len(g.Points) > 0 {
			g.fit()
			all = append(all, g)
		}
	}
	return all
}

// fit chooses the simplest shape that describes the points: flat if they all lie within the noise, else what leaves less.
func (g *growth) fit() {
	least, most := math.Inf(1), 0.0
	for _, p := range g.Points {
		least, most = min(least, p.Cost), max(most, p.Cost)
	}
	flat := straight{base: mean(g.Points)}
	switch {
	case most <= least*(1+flatWithin) && len(g.Points) > 1:
		g.take("flat", flat, func(float64) float64 { return 0 })
	case len(g.Points) < 3:
	default:
		same := func(n float64) float64 { return n }
		linear, log := fitLine(g.Points, same), fitLine(g.Points, math.Log2)
		if linear.rest(g.Points, same) < log.rest(g.Points, math.Log2) && linear.step > 0 {
			g.take("linear", linear, same)
		} else {
			g.take("log n", log, math.Log2)
		}
		g.trySteps()
	}
}

// trySteps looks whether costs are flat on either side of a size: that at which tables no longer are in the caches.
func (g *growth) trySteps() {
	for from := 1; from < len(g.Points) && len(g.Points) > 3; from++ {
		low, high := mean(g.Points[:from]), mean(g.Points[from:])
		step := func(n float64) float64 {
			if n >= g.Points[from].Size {
				return 1
			}
			return 0
		}
		l := straight{base: low, step: high - low}
		if rest := l.rest(g.Points, step); high > low && rest < stepWorth*g.Error {
			g.take(steps, l, step)
			g.From = g.Points[from].Size
		}
	}
}

// stepWorth is how much smaller the error must be for two levels, which have a number more, to be taken for the better fit.
const stepWorth = 0.8

// steps is the shape that caches make.
const steps = "flat, in memory more"

func (g *growth) take(shape string, l straight, of func(float64) float64) {
	g.Shape, g.Base, g.Step, g.Error = shape, l.base, l.step, l.rest(g.Points, of)
}

// at is the cost that the fit gives for a size.
func (g growth) at(size float64) float64 {
	switch g.Shape {
	case "linear":
		return g.Base + g.Step*size
	case "log n":
		return g.Base + g.Step*math.Log2(size)
	case steps:
		if size >= g.From {
			return g.Base + g.Step
		}
	}
	return g.Base
}

// text is what a reader is told.
func (g growth) text() string {
	switch g.Shape {
	case "flat":
		return fmt.Sprintf("flat, %.0f ns", g.Base)
	case "log n":
		return fmt.Sprintf("log n, %.0f ns and %.1f ns for each doubling", g.Base, g.Step)
	case "linear":
		return fmt.Sprintf("linear, %.0f ns and %s ns for each 1,000", g.Base, short(1000*g.Step))
	case steps:
		return fmt.Sprintf("flat twice: %.0f ns in caches, %.0f ns in memory, from %.0f on", g.Base, g.Base+g.Step, g.From)
	}
	return "too few sizes were measured"
}

// straight is base + step * f(n).
type straight struct{ base, step float64 }

// fitLine finds the line with the least relative squares: small sizes count as much as large ones.
func fitLine(points []point, of func(float64) float64) straight {
	var w, wx, wy, wxx, wxy float64
	for _, p := range points {
		weight, x := 1/(p.Cost*p.Cost), of(p.Size)
		w, wx, wy, wxx, wxy = w+weight, wx+weight*x, wy+weight*p.Cost, wxx+weight*x*x, wxy+weight*x*p.Cost
	}
	det := w*wxx - wx*wx
	if det == 0 {
		return straight{base: wy / w}
	}
	return straight{base: (wxx*wy - wx*wxy) / det, step: (w*wxy - wx*wy) / det}
}

// rest is the root of the mean square of what the line leaves, to the costs.
func (l straight) rest(points []point, of func(float64) float64) float64 {
	var sum float64
	for _, p := range points {
		left := (p.Cost - l.base - l.step*of(p.Size)) / p.Cost
		sum += left * left
	}
	return math.Sqrt(sum / float64(len(points)))
}

func mean(points []point) float64 {
	var sum float64
	for _, p := range points {
		sum += p.Cost
	}
	return sum / float64(len(points))
}
