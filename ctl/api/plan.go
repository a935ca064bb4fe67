package api

import (
	"context"
	"fmt"
)

// PlanRequest asks what Apply of a configuration would change. Nothing is.
type PlanRequest struct {
	Name string `json:"name"`          // of the file, for messages
	Dir  string `json:"dir,omitempty"` // absolute; set files are relative to it
	YAML string `json:"yaml"`          // its text

	// What SSH_CONNECTION says where the request comes from: it is told when that would be cut off.
	SSHConnection string `json:"ssh_connection,omitempty"`

	NoPrice bool `json:"no_price,omitempty"` // don't measure what a packet takes, for which programs are loaded four times
}

// Plan is what Apply would change.
type Plan struct {
	Revision uint64         `json:"revision"`          // in force, which it is compared with; 0: none, it is compared with a file
	Tag      string         `json:"tag,omitempty"`     // of that one: Apply with this IfMatch changes what was planned, or nothing
	Changed  bool           `json:"changed"`           // false: the same snapshot is in force already
	Refused  string         `json:"refused,omitempty"` // why Apply would refuse it at this moment
	Changes  []Change       `json:"changes"`           // objects in the order of the configuration
	Warnings []Warning      `json:"warnings,omitempty"`
	Services []PlannedShare `json:"services"` // those whose new flows would be spread otherwise
	Flows    *PlannedFlows  `json:"flows,omitempty"`
	Price    *PlannedPrice  `json:"price,omitempty"`
}

// PlannedPrice is what a received packet takes with either snapshot, measured by turns on packets like those of live flows.
type PlannedPrice struct {
	Flows int        `json:"flows"`           // whose packets were measured; 0: there are none
	Known *PlannedNs `json:"known,omitempty"` // packets of flows that are remembered, weighted by how many each flow had
	New   *PlannedNs `json:"new,omitempty"`   // packets that are judged by everything: the first of each flow

	// Without flows: what check --cost estimates for a packet that a rule is about, and for one that meets the worst.
	Typical *PlannedNs `json:"typical,omitempty"`
	Worst   *PlannedNs `json:"worst,omitempty"`
	Error   string     `json:"error,omitempty"` // why nothing was measured
}

// PlannedNs are nanoseconds a packet.
type PlannedNs struct {
	Before float64 `json:"before"`
	After  float64 `json:"after"`
}

// PlannedFlows says which live flows would be judged otherwise, by a packet of each direction that is put through the programs with
// either snapshot, beside the live ones.
type PlannedFlows struct {
	Live      int                 `json:"live"`            // in the flow table, that may go on, and those that are dropped
	Judged    int                 `json:"judged"`          // of these; fewer are a sample by chance
	Unjudged  string              `json:"error,omitempty"` // why none were
	Cut       int                 `json:"cut"`             // pass now and would not
	Opened    int                 `json:"opened"`          // don't pass now and would
	Otherwise []PlannedVerdict    `json:"otherwise"`       // the most flows first
	Services  []PlannedAssignment `json:"services"`        // with live flows of which some would move
}

// PlannedVerdict are flows that would be judged otherwise in the same way.
type PlannedVerdict struct {
	Before      string   `json:"before"` // verdicts: pass, drop, reject, redirect, forward
	After       string   `json:"after"`
	Reason      string   `json:"reason"`            // of the verdict after
	Rule        string   `json:"rule,omitempty"`    // that would decide; empty: none
	Service     string   `json:"service,omitempty"` // that they are forwarded by, or would be
	Flows       int      `json:"flows"`
	Established int      `json:"established"`       // of these
	Session     string   `json:"session,omitempty"` // one of them is that of the request: which
	Examples    []string `json:"examples"`          // some of them, as text
}

// PlannedAssignment is what would become of the live flows of a service.
type PlannedAssignment struct {
	Service string `json:"service"`
	Live    int    `json:"live"`
	Leave   int    `json:"leave"` // would not go to their backend any more
	Anew    int    `json:"anew"`  // would get another backend if they began anew, and stay if they don't
}

// Change is what would become of one object of the configuration.
type Change struct {
	Change string       `json:"change"`           // add, remove, change
	Kind   string       `json:"kind"`             // interface, set, filter, rule, service, backend, nat, flows, export, history, api
	Name   string       `json:"name,omitempty"`   // of a backend SERVICE/BACKEND; empty where there is only one
	Text   string       `json:"text,omitempty"`   // add, remove: the object in short
	Keys   []ChangedKey `json:"keys,omitempty"`   // change: what is another value
	Before string       `json:"before,omitempty"` // rule that is added: the one that it comes before; empty: it is the last
	At     string       `json:"at,omitempty"`     // FILE:LINE:COLUMN, of what is removed in the file that is in force
}

// The values of Change.Change.
const (
	ChangeAdded   = "add"
	ChangeRemoved = "remove"
	ChangeChanged = "change"
)

// Sign is + for what is added, - for what is removed, ~ for what is another one.
func (c Change) Sign() string {
	switch c.Change {
	case ChangeAdded:
		return "+"
	case ChangeRemoved:
		return "-"
	default:
		return "~"
	}
}

// ChangedKey is a key of an object as configurations have it.
type ChangedKey struct {
	Key string `json:"key"` // nested ones with a dot: health.every
	Old string `json:"old"` // empty: it isn't given
	New string `json:"new"`
}

// PlannedShare is how new flows of a service would be spread. Established ones stay where they are.
type PlannedShare struct {
	Service  string           `json:"service"`
	Moved    float64          `json:"moved"` // share of new flows that would get another backend, 0 to 1
	Backends []PlannedBackend `json:"backends"`
}

// PlannedBackend is a backend's part of the new flows of its service, 0 to 1.
type PlannedBackend struct {
	Name   string  `json:"name"`
	Before float64 `json:"before"`
	After  float64 `json:"after"`
}

func (h *handler) plan(ctx context.Context, request PlanRequest) (Plan, error) {
	plan, err := h.engine.Plan(ctx, request)
	if plan.Changes == nil {
		plan.Changes = []Change{}
	}
	if plan.Services == nil {
		plan.Services = []PlannedShare{}
	}
	return plan, err
}

// Percent prints a share.
func Percent(share float64) string {
	if share > 0 && share < 0.001 {
		return "< 0.1 %"
	}
	return fmt.Sprintf("%.1f %%", 100*share)
}
