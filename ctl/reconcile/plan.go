package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// Want is a generation to be.
type Want struct {
	Tables   *compile.Tables
	FlowsMax int            // flows expected; 0 without flow accounting
	Reused   compile.Reused // ids that had another owner: their counters start at 0
}

// Have is what the data plane holds, as far as it is known. The zero value is an empty one.
type Have struct {
	Tables   *compile.Tables  // of the generation in force; nil: none, or made by a daemon before this one
	Features compile.Features // that the loaded programs serve
	FlowsMax int
	Rings    map[uint32]compile.Ring    // by id
	Backends map[uint16]compile.Backend // by id
	Orders   map[uint16]Order           // for those that have one; only New reads it
}

// Kind says what an operation does.
type Kind int

const (
	ResetCounters Kind = iota
	WidenFeatures
	ResizeFlows
	LoadTable
	ShareTable
	PutRing
	PutBackend
	Commit
	NarrowFeatures
	DeleteRing
)

// Op is one step of a plan. Only the members that its kind needs are set.
type Op struct {
	Kind     Kind
	Reused   compile.Reused
	Features compile.Features
	FlowsMax int
	Table    abi.Table
	Lines    []abi.Line
	Ring     compile.Ring
	Backend  compile.Backend
}

// String is the operation in one line.
func (o Op) String() string {
	switch o.Kind {
	case ResetCounters:
		return "reset counters of reused ids"
	case WidenFeatures:
		return "swap in programs for both generations: " + o.Features.String()
	case ResizeFlows:
		return fmt.Sprintf("resize flow table to %d", o.FlowsMax)
	case LoadTable:
		return fmt.Sprintf("load %s table of %d lines", tableName(o.Table), len(o.Lines))
	case ShareTable:
		return fmt.Sprintf("share %s table", tableName(o.Table))
	case PutRing:
		return fmt.Sprintf("put ring %d of %s", o.Ring.ID, o.Ring.Service)
	case PutBackend:
		return fmt.Sprintf("put backend %d, %s/%s at %s", o.Backend.ID, o.Backend.ServiceName, o.Backend.Name, o.Backend.Address)
	case Commit:
		return "commit"
	case NarrowFeatures:
		return "swap in programs for this generation: " + o.Features.String()
	case DeleteRing:
		return fmt.Sprintf("delete ring %d of %s", o.Ring.ID, o.Ring.Service)
	default:
		return fmt.Sprintf("operation %d", int(o.Kind))
	}
}

func tableName(t abi.Table) string {
	return [abi.TableCount]string{abi.TableSets: "sets", abi.TableRules: "rules", abi.TableServices: "services"}[t]
}

// Plan returns the operations that lead from have to want, in the order in which they must happen.
func Plan(have Have, want Want) []Op {
	var ops []Op
	if reused := want.Reused; len(reused.Rules)+len(reused.Backends)+len(reused.Exits)+len(reused.Interfaces) != 0 {
		ops = append(ops, Op{Kind: ResetCounters, Reused: want.Reused})
	}
	if want.FlowsMax != have.FlowsMax && want.FlowsMax != 0 {
		ops = append(ops, Op{Kind: ResizeFlows, FlowsMax: want.FlowsMax})
	}
	both := have.Features.Or(want.Tables.Features)
	ops = append(ops, planTables(have, want)...)
	if both != have.Features {
		ops = append(ops, Op{Kind: WidenFeatures, Features: both})
	}
	// After a daemon that may have died half-way, rings and backends are put again, which is the same or a repair.
	inherited := have.Tables == nil
	for _, ring := range want.Tables.Rings {
		if now, ok := have.Rings[ring.ID]; !ok || inherited || now.Service != ring.Service || now.Size != ring.Size || !slices.Equal(now.Members, ring.Members) {
			ops = append(ops, Op{Kind: PutRing, Ring: ring})
		}
	}
	for _, backend := range want.Tables.Backends {
		if now, ok := have.Backends[backend.ID]; !ok || now != backend || inherited {
			ops = append(ops, Op{Kind: PutBackend, Backend: backend})
		}
	}
	ops = append(ops, Op{Kind: Commit})
	if both != want.Tables.Features {
		ops = append(ops, Op{Kind: NarrowFeatures, Features: want.Tables.Features})
	}
	return append(ops, unusedRings(have, want)...)
}

// planTables loads the tables that change.
func planTables(have Have, want Want) (ops []Op) {
	for t := range abi.TableCount {
		lines := tableLines(want.Tables, t)
		if have.Tables != nil && sameLines(lines, tableLines(have.Tables, t)) {
			ops = append(ops, Op{Kind: ShareTable, Table: t})
			continue
		}
		ops = append(ops, Op{Kind: LoadTable, Table: t, Lines: lines})
	}
	return ops
}

// sameLines compares tables, of which one often is the other.
func sameLines(a, b []abi.Line) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func tableLines(tables *compile.Tables, t abi.Table) []abi.Line {
	switch t {
	case abi.TableSets:
		return tables.Sets
	case abi.TableRules:
		return tables.Rules
	default:
		return tables.Services
	}
}

// unusedRings deletes the rings of neither this generation nor the one before it. What the one before needs is not
// known when another daemon made it; then all stay until the next plan.
func unusedRings(have Have, want Want) []Op {
	if have.Tables == nil {
		return nil
	}
	used := map[uint32]bool{}
	for _, tables := range []*compile.Tables{have.Tables, want.Tables} {
		for _, ring := range tables.Rings {
			used[ring.ID] = true
		}
	}
	var ops []Op
	for _, id := range slices.Sorted(maps.Keys(have.Rings)) {
		if !used[id] {
			ops = append(ops, Op{Kind: DeleteRing, Ring: have.Rings[id]})
		}
	}
	return ops
}
