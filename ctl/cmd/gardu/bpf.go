package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/inspect"
)

func (a *app) bpfCommand() *cobra.Command {
	var dir string
	var measure time.Duration
	var most int
	var full bool
	// instance is for what needs root and something in the kernel.
	instance := func(use func(*inspect.Instance) error) error {
		if err := a.needRoot(); err != nil {
			return err
		}
		i, err := inspect.Open(dir)
		if errors.Is(err, inspect.ErrNothing) {
			return advise(err, "start the daemon: sudo gardu run -c FILE\nor say where it pins: --bpffs DIR")
		}
		if err != nil {
			return err
		}
		return use(i)
	}
	content := func(name string, use func(*inspect.Content) error) error {
		return instance(func(i *inspect.Instance) error {
			m, err := findMap(i, name)
			if err != nil {
				return err
			}
			c, err := m.Content()
			if err != nil {
				return err
			}
			defer c.Close()
			return use(c)
		})
	}
	root := a.outputFlag(&cobra.Command{
		Use:   "bpf",
		Short: "Show what the kernel really holds: programs, maps, their content, the verifier's log",
		Long: `Shows gardu's programs and maps as the kernel has them, daemon or not: where programs
are attached, their size and what the verifier went through, who writes and reads each
map and the memory that it takes.

For a second (--time) the kernel measures how often programs run and how long they
take. That costs each packet about a tenth of a microsecond, which is part of what it
measures, and ends with the command. --time 0 leaves it off.`,
		Example: `  sudo gardu bpf
  sudo gardu bpf dump blocks
  sudo gardu bpf lookup backends 1 | jq .value.state
  sudo gardu bpf log gardu_xdp`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return instance(func(i *inspect.Instance) error {
				programs, err := i.Programs(cmd.Context(), measure)
				if err != nil {
					return err
				}
				maps, err := i.Maps(programs)
				if err != nil {
					return err
				}
				return a.printKernel(kernelView{programs, maps}, measure)
			})
		},
	})
	root.PersistentFlags().StringVar(&dir, "bpffs", dataplane.DefaultDir, "`DIR` where gardu has pinned it")
	root.Flags().DurationVar(&measure, "time", time.Second, "measure runs for so `LONG`; 0: not at all")

	dump := &cobra.Command{
		Use:   "dump MAP",
		Short: "Print the entries of a map, a JSON object a line",
		Long: `Prints the entries of a map, by its name or id. Of arrays, entries that are all zeros
are left out. What each CPU has for itself is a list by CPU. A value whose type is
known is printed by its members, else as bytes in hex.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return content(args[0], func(c *inspect.Content) error {
				encoder := lineEncoder(a.stdout)
				return c.Dump(most, func(e inspect.Entry) error { return encoder.Encode(e) })
			})
		},
	}
	dump.Flags().IntVarP(&most, "lines", "n", 0, "at most `N` entries; 0: all")
	lookup := &cobra.Command{
		Use:   "lookup MAP KEY",
		Short: "Print one entry of a map",
		Long:  "Prints the entry of a key: a number where keys have 4 bytes, else their bytes in hex.",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return content(args[0], func(c *inspect.Content) error {
				key, err := c.ParseKey(args[1])
				if err != nil {
					return &usageError{text: err.Error()}
				}
				return a.printEntry(c, key)
			})
		},
	}
	next := &cobra.Command{
		Use:   "get-next MAP [KEY]",
		Short: "Print the entry behind a key, or the first",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			return content(args[0], func(c *inspect.Content) error {
				var key []byte
				var err error
				if len(args) == 2 {
					if key, err = c.ParseKey(args[1]); err != nil {
						return &usageError{text: err.Error()}
					}
				}
				if key, err = c.Next(key); err != nil {
					return err
				}
				return a.printEntry(c, key)
			})
		},
	}
	log := &cobra.Command{
		Use:   "log PROGRAM",
		Short: "Print what the verifier says to a program",
		Long: `Loads a program of gardu once more, made for what the configuration in force needs,
attaches it to nothing, and prints what the kernel's verifier says: a summary, or with --full every instruction that it goes through, with
the source line and what it knows of the registers. Without a gardu in the kernel the
program is made for everything.`,
		Args: cobra.ExactArgs(1),
		ValidArgs: []string{"gardu_xdp", "gardu_ingress", "gardu_egress", "gardu_check", "gardu_clock", "decap_tc", "decap_xdp", "decap_clamp",
			"lost_answer", "lost_batch", "lost_redirect"},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := a.needRoot(); err != nil {
				return err
			}
			features := compile.AllFeatures()
			if i, err := inspect.Open(dir); err == nil {
				bits, err := i.Features()
				if err != nil {
					return err
				}
				features = compile.FeaturesOf(bits)
			}
			text, err := dataplane.VerifierLog(features, args[0], full)
			if err != nil {
				return err
			}
			a.printf("%s\n", strings.TrimSpace(text))
			return nil
		},
	}
	log.Flags().BoolVar(&full, "full", false, "every instruction: megabytes of it")
	for _, cmd := range []*cobra.Command{dump, lookup, next, log} {
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return &failure{err}
			}
			return nil
		}
		root.AddCommand(cmd)
	}
	return root
}

// kernelView is what `gardu bpf` prints.
type kernelView struct {
	Programs []inspect.Program `json:"programs"`
	Maps     []inspect.Map     `json:"maps"`
}

func (a *app) printKernel(v kernelView, measure time.Duration) error {
	return printValue(a, v, func() error {
		if err := writeTable(a.stdout, a.color, v.Programs, shown(a, programColumns(measure))); err != nil {
			return err
		}
		a.printf("\n")
		if err := writeTable(a.stdout, a.color, v.Maps, shown(a, mapColumns())); err != nil {
			return err
		}
		var sum uint64
		for _, m := range v.Maps {
			sum += m.Memory
		}
		a.printf("\n%s, %s of memory\n", plural(len(v.Maps), "map"), bytesText(sum))
		return nil
	})
}

func programColumns(measure time.Duration) []column[inspect.Program] {
	columns := []column[inspect.Program]{
		{"id", false, func(p *inspect.Program) any { return p.ID }},
		{"program", false, func(p *inspect.Program) any { return p.Name }},
		{"type", true, func(p *inspect.Program) any { return p.Type }},
		{"tag", false, func(p *inspect.Program) any { return p.Tag }},
		{"attached to", false, func(p *inspect.Program) any { return strings.Join(p.Attached, ", ") }},
		{"instructions", false, func(p *inspect.Program) any { return p.Instructions }},
		{"verified", false, func(p *inspect.Program) any { return p.Verified }},
		{"jited", false, func(p *inspect.Program) any {
			if p.JITed == 0 {
				return styled{"interpreted", bad}
			}
			return size(p.JITed)
		}},
		{"loaded", true, func(p *inspect.Program) any { return p.Loaded }},
	}
	if measure > 0 {
		columns = append(columns,
			column[inspect.Program]{"runs/s", false, func(p *inspect.Program) any { return uint64(float64(p.Runs) / measure.Seconds()) }},
			column[inspect.Program]{"ns/run", false, func(p *inspect.Program) any {
				if p.Runs == 0 {
					return ""
				}
				return uint64(p.NsPerRun)
			}})
	}
	return columns
}

func mapColumns() []column[inspect.Map] {
	return []column[inspect.Map]{
		{"id", false, func(m *inspect.Map) any { return m.ID }},
		{"map", false, func(m *inspect.Map) any { return m.Name }},
		{"type", false, func(m *inspect.Map) any { return m.Type }},
		{"key", false, func(m *inspect.Map) any { return m.KeyBytes }},
		{"value", false, func(m *inspect.Map) any { return m.ValueBytes }},
		{"entries", false, func(m *inspect.Map) any { return m.Entries }},
		{"memory", false, func(m *inspect.Map) any { return size(m.Memory) }},
		{"who writes and reads", true, func(m *inspect.Map) any { return m.Help }},
	}
}

// findMap finds a map by its name or id.
func findMap(i *inspect.Instance, name string) (inspect.Map, error) {
	programs, err := i.Programs(context.Background(), 0)
	if err != nil {
		return inspect.Map{}, err
	}
	maps, err := i.Maps(programs)
	if err != nil {
		return inspect.Map{}, err
	}
	id, _ := strconv.ParseUint(name, 10, 32)
	var names []string
	for _, m := range maps {
		if m.Name == name || m.ID == uint32(id) {
			return m, nil
		}
		if !strings.HasPrefix(m.Name, ".") && !slices.Contains(names, m.Name) { // constants, and a program's own
			names = append(names, m.Name)
		}
	}
	return inspect.Map{}, usage("there is no map %q: gardu has\n%s", name, wrapped(strings.Join(names, " "), "  "))
}

func (a *app) printEntry(c *inspect.Content, key []byte) error {
	entry, err := c.Lookup(key)
	if err != nil {
		return err
	}
	encoder := lineEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(entry)
}
