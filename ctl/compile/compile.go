package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// Tables is a compiled snapshot: plain values, never changed once built.
type Tables struct {
	Sets, Rules, Services []abi.Line // never empty: line 0 is the head
	Rings                 []Ring     // a ring a service, in the snapshot's order
	Backends              []Backend  // of all services, in the snapshot's order
	Features              Features
	Cost                  Cost
	Runs                  []RunCost // of those kinds of packets for which there are rules

	uses []setUse // that Sets is made of
}

// Ring says what a service's ring is made of. Members has the weights of the snapshot; Live the current ones.
type Ring struct {
	ID      uint32
	Service string
	Size    int // slots
	Members []lb.Member
}

// Equal tells that two rings are made of the same.
func (r Ring) Equal(other Ring) bool {
	return r.ID == other.ID && r.Service == other.Service && slices.Equal(r.Members, other.Members)
}

// Backend is one backend of one service.
type Backend struct {
	ID, Service       uint16
	Name, ServiceName string
	Address           netip.Addr
	Port              uint16 // mode nat; 0: that of the packet
	Mode              abi.Mode
	OnDown            model.OnDown
}

// Runtime is what is known of a backend outside the snapshot. The zero value changes nothing.
type Runtime struct {
	Down    bool // by its health check
	Drained bool
	Weight  *int // in place of the snapshot's
	Slow    int  // tenths of its weight that it has for now; 0: all
}

// slowSteps is what Runtime.Slow counts in.
const slowSteps = 10

// Live returns the members to feed to lb.Ring in the present state, by backend id: who is down or drained has
// weight 0, so that new flows go elsewhere, and so have backups while another backend has not. While somebody starts slowly, all
// weights are ten times as large.
func (r Ring) Live(state map[uint16]Runtime) []lb.Member {
	members := make([]lb.Member, len(r.Members))
	primary, slow := false, false
	for i, m := range r.Members {
		now := state[m.ID]
		if now.Weight != nil {
			m.Weight = *now.Weight
		}
		if now.Down || now.Drained {
			m.Weight = 0
		}
		members[i] = m
		primary = primary || m.Weight > 0 && !m.Backup
		slow = slow || m.Weight > 0 && now.Slow > 0
	}
	for i := range members {
		m := &members[i]
		if m.Backup && primary {
			m.Weight = 0
		}
		if !slow {
			continue
		}
		if tenths := state[m.ID].Slow; tenths > 0 {
			m.Weight *= tenths
		} else {
			m.Weight *= slowSteps
		}
	}
	return members
}

// Build makes the ring of the present state.
func (r Ring) Build(state map[uint16]Runtime) []uint16 {
	return lb.Ring(r.Live(state), cmp.Or(r.Size, lb.RingSize))
}

// Compile builds the tables of a checked snapshot with ids from IDs.Assign of the same snapshot. It fails with
// a *LimitError when the snapshot is too large, and on what package config would have refused.
func Compile(snapshot *model.Snapshot, ids IDs) (*Tables, error) {
	return CompileAfter(nil, snapshot, ids)
}

// CompileAfter is Compile, and takes over from the tables before what comes out the same: a change of one rule doesn't make
// the sets anew. before may be nil, or without its lines of sets; what is returned doesn't depend on it.
func CompileAfter(before *Tables, snapshot *model.Snapshot, ids IDs) (*Tables, error) {
	rules, err := lowerRules(snapshot, ids)
	if err != nil {
		return nil, err
	}
	t := &Tables{uses: rules.sets}
	var classes int
	if before != nil && before.Sets != nil && slices.EqualFunc(before.uses, rules.sets, setUse.equal) {
		t.Sets, classes = before.Sets, before.Cost.Classes
	} else if t.Sets, classes, err = setsTable(rules.sets); err != nil {
		return nil, err
	}
	if t.Rules, t.Runs, err = rulesTable(rules); err != nil {
		return nil, err
	}
	for i := range t.Runs {
		t.Runs[i].nameCrowd(snapshot.Filter.Rules, ids)
		t.Cost.add(t.Runs[i])
	}
	if t.Services, err = servicesTable(snapshot.Services, ids); err != nil {
		return nil, err
	}
	if t.Rings, t.Backends, err = backends(snapshot.Services, ids); err != nil {
		return nil, err
	}
	t.Features = features(snapshot, rules)
	t.Cost.Classes = classes
	for table, lines := range map[abi.Table][]abi.Line{
		abi.TableSets: t.Sets, abi.TableRules: t.Rules, abi.TableServices: t.Services,
	} {
		t.Cost.Bytes[table] = len(lines) * lineBytes
	}
	return t, nil
}

// LimitError tells that a snapshot has more of something than the data plane has room for.
type LimitError struct {
	What  string // "rules", "backends", ...
	Name  string // the first one beyond the limit; "" when it has no name
	Limit int
}

func (e *LimitError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("too many %s: at most %d", e.What, e.Limit)
	}
	return fmt.Sprintf("too many %s: no room for %q, at most %d", e.What, e.Name, e.Limit)
}
