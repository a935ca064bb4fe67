package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/model"
)

// Sets lists the sets. A set's counters are derived from those of the rules, so that they cost a packet nothing.
func (d *Daemon) Sets(context.Context) ([]api.Set, error) {
	counts, err := d.setCounts()
	if err != nil {
		return nil, err
	}
	now := counts.of
	hits, err := d.setHits(now)
	if err != nil {
		return nil, err
	}
	sets := make([]api.Set, len(now.snapshot.Sets))
	for i := range now.snapshot.Sets {
		s := &now.snapshot.Sets[i]
		set := api.Set{Name: s.Name, Entries: entries(s), State: "ok", File: s.File, Loaded: now.read,
			Wanted: counts.wanted[s.Name], Kernel: counts.kernel[s.Name], Packets: hits[s.Name].Packets, Bytes: hits[s.Name].Bytes}
		set.Kind = map[model.SetKind]string{model.Addresses: "addresses", model.Ports: "ports", model.Pairs: "pairs"}[s.Kind]
		switch {
		case !counts.asked[s.Name]:
			set.State, set.Difference = "unused", "no rule asks for it"
		case s.Kind != model.Addresses:
			set.Kernel, set.Difference = 0, set.Kind+" are parts of the rules that ask for them, not of a table that could be read back"
		case set.Kernel != set.Wanted:
			set.Difference = "the table in the kernel is not what was compiled: apply again, and report this"
		}
		if file, ok := d.lists.get(s.Name); ok {
			set.Loaded = file.loaded
			if file.err != nil {
				set.State, set.Error = "kept", summary(file.err)
			}
		}
		set.Age = api.Duration(time.Since(set.Loaded).Truncate(time.Second))
		sets[i] = set
	}
	return sets, nil
}

// setCounts are how many entries the sets of one generation have, by name.
type setCounts struct {
	of             *applied        // without its tables
	asked          map[string]bool // by a rule or filter.allow
	wanted, kernel map[string]int
}

// setCountsCache keeps what takes a tenth of a second for a million entries.
type setCountsCache struct {
	mu   sync.Mutex
	last *setCounts
}

// setCounts counts the entries of the sets in force, as wanted and as the kernel has them.
func (d *Daemon) setCounts() (*setCounts, error) {
	d.counted.mu.Lock()
	defer d.counted.mu.Unlock()
	if last := d.counted.last; last != nil && last.of.snapshot == d.current.Load().snapshot {
		return last, nil
	}
	d.changing.Lock() // so that what is read back is of the snapshot that is in force
	now := d.current.Load()
	lines, err := d.plane.Lines(abi.TableSets)
	d.changing.Unlock()
	if err != nil {
		return nil, fmt.Errorf("read the sets back: %w", err)
	}
	c := &setCounts{of: now.withoutTables(), asked: map[string]bool{}, wanted: map[string]int{}, kernel: map[string]int{}}
	inRules := map[string]bool{}
	for i := range now.snapshot.Filter.Rules {
		for _, condition := range now.snapshot.Filter.Rules[i].Match {
			inRules[condition.Set] = true
		}
	}
	var bits []uint16
	bitOf := map[string]uint16{}
	for i := range now.snapshot.Sets {
		set := &now.snapshot.Sets[i]
		allow := set.Name == now.snapshot.Filter.Allow
		c.asked[set.Name] = allow || inRules[set.Name]
		c.wanted[set.Name] = compile.Entries(set)
		if set.Kind != model.Addresses || !c.asked[set.Name] {
			continue
		}
		bit := now.ids.Sets[set.Name]
		if !inRules[set.Name] {
			bit = 0 // that of filter.allow
		}
		bits, bitOf[set.Name] = append(bits, bit), bit
	}
	if len(bits) > 0 && lines != nil {
		held, err := compile.Held(lines, bits)
		if err != nil {
			return nil, err
		}
		for name, bit := range bitOf {
			c.kernel[name] = held[bit]
		}
	}
	d.counted.last = c
	return c, nil
}

// setHits sums up, by set, the packets that rules matched for being in it, and those that filter.allow passed. A rule that
// asks for what is not in the set has no part in it.
func (d *Daemon) setHits(now *applied) (map[string]api.Counter, error) {
	rules, err := d.ruleCounters(now)
	if err != nil {
		return nil, err
	}
	allowed, err := d.plane.RuleCounters([]uint32{uint32(abi.DeciderAllow)})
	if err != nil {
		return nil, err
	}
	sums := map[string]api.Counter{}
	add := func(set string, c abi.RuleCounter) {
		sum := sums[set]
		sums[set] = api.Counter{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes}
	}
	for i, r := range now.snapshot.Filter.Rules {
		asked := map[string]bool{}
		for _, condition := range r.Match {
			if condition.Set != "" && !condition.Not && !asked[condition.Set] {
				asked[condition.Set] = true
				add(condition.Set, rules[i])
			}
		}
	}
	if now.snapshot.Filter.Allow != "" {
		add(now.snapshot.Filter.Allow, allowed[0])
	}
	return sums, nil
}

// entries counts what a set holds as it is written.
func entries(set *model.Set) int { return len(set.Prefixes) + len(set.Ports) + len(set.Pairs) }
