package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// result is what bench/results/*.json holds.
type result struct {
	Time    time.Time `json:"time"`
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Packets int       `json:"packets"` // a sample, at least
	Cases   []row     `json:"cases"`

	Live *liveResult `json:"live,omitempty"`
}

// find returns the row of a case.
func (r result) find(name string) (row, bool) {
	for _, c := range r.Cases {
		if c.Name == name {
			return c, true
		}
	}
	return row{}, false
}

// row is one case. Times are ns a packet.
type row struct {
	Name   string  `json:"name"`
	About  string  `json:"about"`
	Flows  int     `json:"flows"` // different packets sent
	Raw    figure  `json:"raw"`   // measuring loop and generator included
	Hits   float64 `json:"hits"`  // part of the packets that a rule dropped
	Net    float64 `json:"net"`   // median minus the median of the empty program
	Ratio  float64 `json:"ratio"` // median to the median of the empty program
	Peer   string  `json:"peer,omitempty"`
	Faster float64 `json:"faster,omitempty"` // net of the peer to this one's
	Aim    float64 `json:"aim,omitempty"`
	Missed bool    `json:"missed,omitempty"` // net is above the aim
}

func newResult(m machine, rounds, packets int, subjects []*subject) result {
	r := result{Time: time.Now().UTC().Truncate(time.Second), Machine: m, Rounds: rounds, Packets: packets}
	empty := map[string]float64{}
	nets := map[string]float64{}
	for _, s := range subjects {
		f := s.figure()
		base := empty[emptyName]
		switch s.name {
		case emptyName, emptyName6:
			base = f.Median
			empty[s.name] = base
		default:
			if s.base != "" {
				base = empty[s.base]
			}
		}
		net := f.Median - base
		nets[s.name] = net
		c := row{Name: s.name, About: s.about, Flows: s.generator.packets, Raw: f, Hits: s.hits, Net: net, Ratio: f.Median / base, Aim: s.aim}
		if s.of != "" {
			c.Aim *= nets[s.of]
			if c.Aim < nets[s.of] { // a peer's: we want to be faster
				c.Peer, c.Faster = s.of, nets[s.of]/net
			}
		}
		c.Missed = c.Aim > 0 && net > c.Aim
		r.Cases = append(r.Cases, c)
	}
	return r
}

// markdown writes the table for people.
func (r result) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, %s\n\n", r.Time.Format(time.DateOnly), r.Machine.Commit)
	fmt.Fprintf(&b, "%s, %d CPUs, %d GiB, kernel %s, bpf_jit_enable %s, %s.\n", r.Machine.CPU, r.Machine.CPUs,
		r.Machine.MemoryBytes>>30, r.Machine.Kernel, r.Machine.JIT, r.Machine.Go)
	fmt.Fprintf(&b, "spectre_v2: %s.\n", r.Machine.Mitigations)
	fmt.Fprintf(&b, "Thread CPU time on CPU %d, real-time priority: %t. %d rounds of at least %d packets a case, interleaved.\n\n",
		r.Machine.PinnedTo, r.Machine.Realtime, r.Rounds, r.Packets)
	b.WriteString("Times are ns a packet. raw: median with the loop and the generator; net: minus the empty program; x: ratio of\n")
	b.WriteString("raw to the empty program's. Trust ratios and order, not single ns.\n\n")
	b.WriteString("| case | packets | raw | min | max | net | x | aim (net) |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, c := range r.Cases {
		aim := ""
		if c.Aim > 0 {
			aim = fmt.Sprintf("%.0f, met", c.Aim)
		}
		if c.Missed {
			aim = fmt.Sprintf("%.0f, **missed**", c.Aim)
		}
		fmt.Fprintf(&b, "| %s | %d | %.1f | %.1f | %.1f | %.1f | %.2f | %s |\n",
			c.Name, c.Flows, c.Raw.Median, c.Raw.Min, c.Raw.Max, c.Net, c.Ratio, aim)
	}
	b.WriteString("\n")
	for _, c := range r.Cases {
		fmt.Fprintf(&b, "- **%s**: %s\n", c.Name, c.About)
	}
	if r.Live != nil {
		b.WriteString("\n" + r.Live.markdown())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// save writes DIR/DATE-COMMIT.json and .md and returns their common path without the ending.
func (r result) save(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the directory of results: %w", err)
	}
	stem := filepath.Join(dir, r.Time.Format(time.DateOnly)+"-"+r.Machine.Commit)
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(stem+".json", append(data, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("write the result: %w", err)
	}
	var table strings.Builder
	if err := r.markdown(&table); err != nil {
		return "", err
	}
	if err := os.WriteFile(stem+".md", []byte(table.String()), 0o644); err != nil {
		return "", fmt.Errorf("write the result: %w", err)
	}
	return stem, nil
}
