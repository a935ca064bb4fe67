package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// result is what bench/results/*.json holds.
type result struct {
	Time      time.Time     `json:"time"`
	Took      time.Duration `json:"took_ns"`
	Machine   machine       `json:"machine"`
	Quick     bool          `json:"quick"`
	Rounds    int           `json:"rounds"`
	Packets   int           `json:"packets"` // a sample, at least
	Cases     []row         `json:"cases"`
	Live      []liveRow     `json:"live,omitempty"`
	Latency   []latencyRow  `json:"latency,omitempty"`
	Transfers []transferRow `json:"transfers,omitempty"`
	Control   []controlRow  `json:"control,omitempty"`
	Growth    []growth      `json:"growth,omitempty"`
	Aims      []verdict     `json:"aims,omitempty"`
	Failures  []string      `json:"failures,omitempty"` // parts that weren't measured, and why
}

// row is one case. Times are ns a packet.
type row struct {
	Batch   string  `json:"batch"`
	Name    string  `json:"name"`
	About   string  `json:"about"`
	Flows   int     `json:"flows"` // different packets sent
	Raw     figure  `json:"raw"`   // measuring loop and generator included
	Hits    float64 `json:"hits"`  // part of the packets that a rule dropped
	Net     float64 `json:"net"`   // median minus the median of the empty program
	Ratio   float64 `json:"ratio"` // median to the median of the empty program
	Floor   string  `json:"floor,omitempty"`
	OfFloor float64 `json:"of_floor,omitempty"` // median to the median of the floor
	Peer    string  `json:"peer,omitempty"`
	OfPeer  float64 `json:"of_peer,omitempty"` // net of the peer to this one's
	Failed  string  `json:"failed,omitempty"`
}

func (r *result) fail(what string, err error) {
	if err != nil {
		r.Failures = append(r.Failures, what+": "+firstLine(err))
	}
}

// add appends the rows of a batch.
func (r *result) add(subjects []*subject) {
	figures := map[string]figure{}
	for _, s := range subjects {
		if len(s.samples) > 0 {
			figures[s.name] = figureOf(s.samples)
		}
	}
	for _, s := range subjects {
		c := row{Batch: s.batch, Name: s.name, About: s.about}
		f, ok := figures[s.name]
		empty, parse := figures[emptyName], parseName
		if s.generator != nil {
			c.Flows = s.generator.packets
			if s.six {
				empty, parse = figures[emptyName6], parseName6
			}
		}
		if !ok {
			c.Failed = cmp.Or(firstLine(s.failed), "nothing was measured")
			r.Cases = append(r.Cases, c)
			continue
		}
		c.Raw, c.Hits, c.Net, c.Ratio = f, s.hits, f.Median-empty.Median, f.Median/empty.Median
		if c.Floor = cmp.Or(s.floor, parse); c.Floor != s.name && !baseline(s.name) {
			c.OfFloor = f.Median / figures[c.Floor].Median
		}
		if peer, ok := figures[s.than]; ok {
			c.Peer, c.OfPeer = s.than, (peer.Median-empty.Median)/c.Net
		}
		if math.IsInf(c.OfFloor, 0) || math.IsNaN(c.OfFloor) {
			c.OfFloor = 0
		}
		r.Cases = append(r.Cases, c)
	}
}

func baseline(name string) bool {
	return slices.ContainsFunc(baselines(), func(s scenario) bool { return s.name == name })
}

// values are all figures by name, as aims and growth ask for them.
func (r *result) values() map[string]float64 {
	values := map[string]float64{}
	for _, c := range r.Cases {
		if _, had := values["raw "+c.Name]; !had && c.Failed == "" {
			values["raw "+c.Name], values["net "+c.Name] = c.Raw.Median, c.Net
		}
	}
	for _, c := range r.Live {
		if c.Failed != "" {
			continue
		}
		values["live "+c.Name] = c.Mpps
		if c.Of == stackNft {
			values["nft net of "+c.Name] = c.More
		}
	}
	for _, c := range r.Control {
		if c.Failed == "" {
			values["control "+c.Name] = c.Figure.Median
		}
	}
	if bare, mine, net := values["live "+liveBare], values["live "+liveFiltered], values["net "+listAndRules]; bare > 0 && mine > 0 && net > 0 {
		values["live of predicted"] = mine / (1000 / (1000/bare + net))
	}
	return values
}

// conclude draws what is drawn from all parts.
func (r *result) conclude() {
	values := r.values()
	r.Aims = judge(aims, values)
	r.Growth = grow(structures(), values)
}

// markdown is the page for people; plots are beside it, their names beginning with stem.
func (r *result) markdown(stem string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, %s\n\n", r.Time.Format(time.DateOnly), r.Machine.Commit)
	fmt.Fprintf(&b, "%s, %d CPUs, %d GiB, kernel %s, bpf_jit_enable %s, %s.\n", r.Machine.CPU, r.Machine.CPUs,
		r.Machine.MemoryBytes>>30, r.Machine.Kernel, r.Machine.JIT, r.Machine.Go)
	fmt.Fprintf(&b, "spectre_v2: %s.\n", r.Machine.Mitigations)
	fmt.Fprintf(&b, "Thread CPU time on CPU %d, real-time priority: %t. %d rounds of at least %d packets a case, interleaved. Load before: %s. Took %s.\n",
		r.Machine.PinnedTo, r.Machine.Realtime, r.Rounds, r.Packets, r.Machine.Load, r.Took.Round(time.Second))
	if r.Quick {
		b.WriteString("\n**A short look: few rounds, no claim.**\n")
	}
	b.WriteString("\nMedians, with the least and the most of the rounds. Trust ratios and order, not single ns.\n")
	r.aimsPart(&b)
	r.failuresPart(&b)
	r.casesPart(&b)
	r.livePart(&b)
	latencyPart(&b, r.Latency)
	transfersPart(&b, r.Transfers)
	controlPart(&b, r.Control)
	r.growthPart(&b, stem)
	r.aboutPart(&b)
	return b.String()
}

func (r *result) aimsPart(b *strings.Builder) {
	if len(r.Aims) == 0 {
		return
	}
	reached, known := 0, 0
	for _, v := range r.Aims {
		if v.Known {
			known++
		}
		if v.Reached {
			reached++
		}
	}
	fmt.Fprintf(b, "\n## Aims\n\n%d of %d that were measured are reached. \"net\" of the empty program, unless raw is said.\n\n", reached, known)
	b.WriteString("| area | what | measured | aim | |\n|---|---|--:|--:|---|\n")
	for _, v := range r.Aims {
		measured := ""
		if v.Known {
			measured = short(v.Measured) + " " + v.Unit
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", v.Area, v.Says, measured, v.Aim, v.text())
	}
	head := "\n### Why not\n\nWhat stands in the way of what was missed, by the figures of this run.\n\n"
	for _, v := range r.Aims {
		if v.Why != "" {
			fmt.Fprintf(b, "%s- **%s**: %s\n", head, v.Says, v.Why)
			head = ""
		}
	}
}

func (r *result) failuresPart(b *strings.Builder) {
	if len(r.Failures) == 0 {
		return
	}
	b.WriteString("\n## Not measured\n\n")
	for _, f := range r.Failures {
		fmt.Fprintf(b, "- %s\n", f)
	}
}

func (r *result) casesPart(b *strings.Builder) {
	if len(r.Cases) == 0 {
		return
	}
	b.WriteString("\n## What a packet costs\n\nBy test runs, ns a packet. raw: with the measuring loop and the generator; net: less the empty program of the same batch;\n")
	b.WriteString("/ empty, / floor: raw to that of the empty program, and of the least that such a case takes (parsing alone, where none is named).\n")
	batch := ""
	for _, c := range r.Cases {
		if c.Batch != batch {
			batch = c.Batch
			fmt.Fprintf(b, "\n### %s\n\n| case | packets | raw | min | max | net | / empty | / floor | peer / this |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n", batch)
		}
		if c.Failed != "" {
			fmt.Fprintf(b, "| %s | not measured: %s |\n", c.Name, c.Failed)
			continue
		}
		floor, peer := "", ""
		if c.OfFloor > 0 {
			floor = fmt.Sprintf("%.2f", c.OfFloor)
		}
		if c.OfPeer > 0 {
			peer = fmt.Sprintf("%.2f", c.OfPeer)
		}
		fmt.Fprintf(b, "| %s | %d | %.1f | %.1f | %.1f | %.1f | %.2f | %s | %s |\n",
			c.Name, c.Flows, c.Raw.Median, c.Raw.Min, c.Raw.Max, c.Net, c.Ratio, floor, peer)
	}
	r.memoryPart(b)
}

// memoryPart says how much of what accounting takes is one access to memory, which no table can do without.
func (r *result) memoryPart(b *strings.Builder) {
	values := r.values()
	one, waits64k, waits1M := values["net flows, 1 flow"], values["net "+floorWaits64k], values["net "+floorWaits1M]
	if one == 0 || waits64k == 0 || waits1M == 0 {
		return
	}
	fmt.Fprintf(b, "\nA program that does nothing but count in one record, and can't begin before the last record has come from memory, takes %.0f ns with 64k\n"+
		"records and %.0f with 1M; accounting of one flow, whose record is at hand, takes %.0f. So %.0f and %.0f ns are the least for a table of records here.\n",
		waits64k, waits1M, one, waits64k+one, waits1M+one)
}

func (r *result) livePart(b *strings.Builder) {
	if len(r.Live) == 0 {
		return
	}
	b.WriteString("\n## Packets that travel\n\nSent by the kernel as live frames of 64 bytes, all on one CPU, over veth or into the stack of an interface. Times are ns a packet and hold\n")
	b.WriteString("the sending and the way. The ratio is of rates, to the case named; more: ns more than that.\n\n")
	b.WriteString("| case | ns | min | max | Mpps | lost | beside | ratio | more |\n|---|--:|--:|--:|--:|--:|---|--:|--:|\n")
	for _, c := range r.Live {
		if c.Failed != "" {
			fmt.Fprintf(b, "| %s | not measured: %s |\n", c.Name, c.Failed)
			continue
		}
		ratio, more := "", ""
		if c.Ratio > 0 {
			ratio, more = fmt.Sprintf("%.2f", c.Ratio), fmt.Sprintf("%.0f", c.More)
		}
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.0f | %.2f | %s | %s | %s | %s |\n", c.Name, c.Time.Median, c.Time.Min, c.Time.Max, c.Mpps, share(c.Lost), c.Of, ratio, more)
	}
	r.peersPart(b)
}

// peersPart compares what filters take: gardu's by test runs, the others' less what the same way takes with a bare drop.
func (r *result) peersPart(b *strings.Builder) {
	if len(r.Cases) == 0 {
		return
	}
	values := r.values()
	b.WriteString("\n### Peers\n\nns a packet for the same rules and packets; gardu's by test runs less the empty program, a peer's less a bare drop at its hook.\n\n")
	b.WriteString("| peer | ns | gardu | ns | peer / gardu |\n|---|--:|---|--:|--:|\n")
	for _, p := range []struct{ peer, mine string }{
		{"nft, 10 rules", "two fields, 10"}, {"nft, 100 rules", "two fields, 100"}, {"nft, 1,000 rules", "two fields, 1,000"},
		{"nft, hash set", "10,000 addresses"}, {"nft, hash set of 1M", "1M addresses"},
		{"nft, interval set", "interval set 10,000"}, {"nft, interval set of 1M", "set 1M, half"}, {"nft, concatenated ranges", "concatenated ranges"},
		{"tc bpf, hash of 10,000 addresses", "10,000 addresses"}, {"tc u32, 100 rules", "two fields, 100"},
	} {
		mine, ok := values["net "+p.mine]
		for _, c := range r.Live {
			if c.Name == p.peer && c.Failed == "" && ok {
				fmt.Fprintf(b, "| %s | %.0f | %s | %.0f | %.1f |\n", p.peer, c.More, p.mine, mine, c.More/mine)
			}
		}
	}
	for _, c := range r.Cases {
		if c.Peer != "" {
			fmt.Fprintf(b, "| %s | %.0f | %s | %.0f | %.1f |\n", c.Peer, c.Net*c.OfPeer, c.Name, c.Net, c.OfPeer)
		}
	}
}

func (r *result) growthPart(b *strings.Builder, stem string) {
	if len(r.Growth) == 0 {
		return
	}
	b.WriteString("\n## How it grows\n\nNet ns against size; \"flat\" is what stays within 15 %, else the better of two fits.\n\n| of | structure | sizes | fit | off by |\n|---|---|--:|---|--:|\n")
	for _, g := range r.Growth {
		off := ""
		if g.Shape != "" {
			off = share(g.Error)
		}
		fmt.Fprintf(b, "| %s | %s | %d | %s | %s |\n", g.Figure, g.Name, len(g.Points), g.text(), off)
	}
	b.WriteString("\n")
	for name := range r.plots() {
		fmt.Fprintf(b, "![%s](%s-%s.svg)\n", name, stem, name)
	}
}

// plots yields the plots that there are, in their order, by name.
func (r *result) plots() func(yield func(name, svg string) bool) {
	return func(yield func(string, string) bool) {
		for _, f := range figures {
			var all []series
			for _, g := range r.Growth {
				if g.Figure == f.name {
					all = append(all, g.series)
				}
			}
			if svg := plot(f.title, f.axis, all); svg != "" && !yield(f.name, svg) {
				return
			}
		}
	}
}

func (r *result) aboutPart(b *strings.Builder) {
	b.WriteString("\n## The cases\n\n")
	told := map[string]bool{}
	about := func(name, text string) {
		if text != "" && !told[name] {
			told[name] = true
			fmt.Fprintf(b, "- **%s**: %s\n", name, text)
		}
	}
	for _, c := range r.Cases {
		about(c.Name, c.About)
	}
	for _, c := range r.Live {
		about(c.Name, c.About)
	}
}

// save writes the page, its data and its plots to DIR/DATE-COMMIT* and returns what their names begin with.
func (r *result) save(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the directory of results: %w", err)
	}
	stem := r.Time.Format(time.DateOnly) + "-" + r.Machine.Commit
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	files := map[string]string{stem + ".json": string(data) + "\n", stem + ".md": r.markdown(stem)}
	if len(r.Cases) > 0 {
		files[stem+"-plan.md"] = r.planPage()
	}
	for name, svg := range r.plots() {
		files[stem+"-"+name+".svg"] = svg
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return "", fmt.Errorf("write the result: %w", err)
		}
	}
	return filepath.Join(dir, stem), writeIndex(dir)
}

// writeIndex lists the pages in a directory, the newest first.
func writeIndex(dir string) error {
	pages, err := filepath.Glob(filepath.Join(dir, "2*.json"))
	if err != nil {
		return err
	}
	made := map[string]time.Time{}
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		var r result
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("%s: %w", page, err)
		}
		made[page] = r.Time
	}
	slices.SortFunc(pages, func(a, b string) int { return made[b].Compare(made[a]) })
	var b strings.Builder
	b.WriteString("# Results\n\nWhat `make bench` wrote, the newest first: a page with plots beside it, what that means for a large network (plan), and the data. Those that end in vm are by `make bench-vm`: beside IPVS, on an emulated machine.\n\n")
	for _, page := range pages {
		stem := strings.TrimSuffix(filepath.Base(page), ".json")
		fmt.Fprintf(&b, "- [%s](%s.md)", stem, stem)
		if _, err := os.Stat(filepath.Join(dir, stem+"-plan.md")); err == nil {
			fmt.Fprintf(&b, ", [plan](%s-plan.md)", stem)
		}
		fmt.Fprintf(&b, ", [data](%s.json)\n", stem)
	}
	return os.WriteFile(filepath.Join(dir, "README.md"), []byte(b.String()), 0o644)
}

// short writes a number with three digits that mean something.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func share(v float64) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2g %%", 100*v)
}
