package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/flow"
	"gardu/ctl/lb/health"
	"gardu/ctl/lint"
	"gardu/ctl/model"
	"gardu/ctl/plan"
	"gardu/ctl/reconcile"
)

// candidate is a snapshot that may be put in force.
type candidate struct {
	snapshot *model.Snapshot
	warnings []config.Warning
	digest   string
	name     string // of the file it came from
	dir      string // set files are relative to it
	text     []byte // of that file
	read     time.Time
}

// compiled is what a candidate becomes.
type compiled struct {
	ids    compile.IDs
	reused compile.Reused
	tables *compile.Tables
	max    int // flows expected

	interfaces []model.Interface // those of the snapshot, as its rules need them
	egressFor  string            // what asks for tc egress on all of them; "" nothing does
}

// flowsMax is 0 without flow accounting.
func (c compiled) flowsMax() int {
	if !c.tables.Features.Flows {
		return 0
	}
	return c.max
}

// applied is what is in force. It is never changed.
type applied struct {
	candidate
	compiled
	revision uint64
	at       time.Time
	rules    map[uint32]string // names of ids, also of those that are away
	services map[uint16]string
	backends map[backendName]compile.Backend
}

// tag names what is in force for who wants to change exactly that.
func (a *applied) tag() string { return api.Tag(a.revision, a.digest) }

// withoutTables is for who keeps names, and with them not all the rest.
func (a *applied) withoutTables() *applied {
	named := *a
	named.tables = nil
	return &named
}

type backendName struct{ service, backend string }

// parse reads a configuration.
func (d *Daemon) parse(name string, text []byte, dir string) (candidate, error) {
	read := time.Now()
	snapshot, warnings, err := config.Parse(name, text, dir)
	if err != nil {
		return candidate{}, err
	}
	return candidate{snapshot: snapshot, warnings: warnings, digest: digest(snapshot), name: name, dir: dir, text: text, read: read}, nil
}

// compile turns a candidate into tables, with the ids that are in use. changing is held, or nobody else is there yet.
func (d *Daemon) compile(c candidate) (compiled, error) {
	d.recallSets()
	return compileAfter(d.current.Load(), d.saved.IDs, c)
}

// compileAfter does so after a snapshot that is in force, or none, and the ids that are known then.
func compileAfter(now *applied, known compile.IDs, c candidate) (compiled, error) {
	ids, reused, err := known.Assign(c.snapshot)
	if err != nil {
		return compiled{}, err
	}
	var before *compile.Tables
	if now != nil {
		before = now.tables
	}
	tables, err := compile.CompileAfter(before, c.snapshot, ids)
	if err != nil {
		return compiled{}, err
	}
	done := compiled{ids: ids, reused: reused, tables: tables, max: c.snapshot.Flows.Max, egressFor: egressFor(tables.Features)}
	done.interfaces = withEgress(c.snapshot.Interfaces, func(model.Interface) bool { return done.egressFor != "" })
	return done, nil
}

// have is what the daemon before this one left in the kernel.
func (d *Daemon) have() reconcile.Have {
	have := reconcile.Have{
		Features: d.plane.Features(),
		FlowsMax: d.plane.FlowsMax(),
		Rings:    map[uint32]compile.Ring{},
		Backends: map[uint16]compile.Backend{},
	}
	for _, ring := range d.saved.Rings {
		have.Rings[ring.ID] = ring
	}
	for _, backend := range d.saved.Backends {
		have.Backends[backend.ID] = backend
	}
	return have
}

// Apply replaces the snapshot, all or nothing.
func (d *Daemon) Apply(ctx context.Context, request api.ApplyRequest) (api.ApplyResult, error) {
	result, err := d.apply(request, change{how: byApply, author: api.Author(ctx), comment: request.Comment})
	switch {
	case err != nil:
		d.notApplied(request.Name, err)
	case result.Changed && !request.Check:
		d.log.Info("applied", "configuration", request.Name, "revision", result.Revision)
	}
	return result, err
}

// notApplied tells of a change that failed, unless for a fault of who asked for it.
func (d *Daemon) notApplied(what string, err error) {
	if _, wrong := errors.AsType[config.Errors](err); wrong {
		return
	}
	if _, refused := errors.AsType[*api.Problem](err); refused {
		return
	}
	d.log.Error("not applied; the configuration before stays in force", "configuration", what, "error", err)
	d.happened(api.Event{Kind: api.EventFault, Text: fmt.Sprintf("%s was not applied: %v", what, err)})
}

// change says who wants a snapshot in force, and for how long.
type change struct {
	how, author, comment string

	of      uint64        // the revision whose snapshot it is; 0: none
	confirm time.Duration // it waits for confirmation so long; 0: it doesn't
	ends    bool          // nothing waits any more once it is in force
}

func (d *Daemon) apply(request api.ApplyRequest, how change) (api.ApplyResult, error) {
	hurry()
	defer debug.SetGCPercent(quietGC)
	next, err := d.parse(request.Name, []byte(request.YAML), request.Dir)
	if err != nil {
		return api.ApplyResult{}, err
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.checkInterfaces(next); err != nil {
		return api.ApplyResult{}, err
	}
	if err := d.checkWritable(next); err != nil {
		return api.ApplyResult{}, err
	}
	if _, err := d.access(next); err != nil { // also when it is only asked
		return api.ApplyResult{}, err
	}
	now := d.current.Load()
	if err := d.checkCurrent(request.IfMatch); err != nil {
		return api.ApplyResult{}, err
	}
	if err := checkShrinks(now, next); err != nil {
		return api.ApplyResult{}, err
	}
	next.warnings = append(next.warnings, d.lint(next, request.SSHConnection)...)
	result := api.ApplyResult{
		Revision: now.revision,
		Tag:      now.tag(),
		Changed:  next.digest != now.digest || !sameLists(next.snapshot, now.snapshot),
		Warnings: api.Warnings(next.warnings),
		Rules:    len(next.snapshot.Filter.Rules),
		Sets:     len(next.snapshot.Sets),
		Services: len(next.snapshot.Services),
	}
	if next.digest != now.digest {
		result.Revision++
	}
	if !result.Changed && !request.Check {
		result.Waiting = d.waitingStatus()
		return result, nil
	}
	if err := d.mayChange(next, request); err != nil {
		return api.ApplyResult{}, err
	}
	tables, err := d.compile(next)
	if err != nil {
		return api.ApplyResult{}, problem(err)
	}
	if request.Check {
		return result, nil
	}
	if next.digest != now.digest {
		how.confirm = time.Duration(request.Confirm)
	}
	if how.confirm != 0 {
		if err := d.prepareReturn(); err != nil {
			return api.ApplyResult{}, err
		}
	}
	brief := make(chan []string, 1)
	go func() { brief <- plan.Brief(now.snapshot, next.snapshot) }()
	err = d.commit(next, tables, how)
	result.Changes = <-brief
	if err != nil {
		return api.ApplyResult{}, problem(err)
	}
	result.Tag = d.current.Load().tag()
	d.fault(startFault, nil)
	result.Waiting = d.waitingStatus()
	return result, nil
}

// checkCurrent refuses a change of what isn't in force any more, and says who changed it. changing is held.
func (d *Daemon) checkCurrent(ifMatch string) error {
	now := d.current.Load()
	if api.Matches(ifMatch, now.tag()) {
		return nil
	}
	current := api.Revision{Revision: now.revision, Time: now.at, Config: now.name, State: d.revisionState(now.revision, now.revision)}
	if r, err := d.revisions.get(now.revision); err == nil { // else its author isn't known
		current = r.wire()
		current.State = d.revisionState(now.revision, now.revision)
	}
	current.Tag = now.tag()
	stale := api.NewProblem(api.CodeStale, "revision %d is in force now (%s), not the one that was to be changed, %s", now.revision, madeText(current), ifMatch)
	stale.Current = &current
	return stale
}

// madeText says how a revision came into force.
func madeText(r api.Revision) string {
	text := r.How
	if r.Author != "" {
		text += " by " + r.Author
	}
	text += " at " + timeText(r.Time)
	if r.Comment != "" {
		text += ": " + r.Comment
	}
	return text
}

// lint warns of what a candidate would do on this machine.
func (d *Daemon) lint(next candidate, sshConnection string) []config.Warning {
	warnings := lint.CutOff(next.snapshot, lint.Around(sshConnection, d.netdev), next.text)
	warnings = append(warnings, lint.Untagged(next.snapshot, d.netdev.StripsVLAN, next.text)...)
	warnings = append(warnings, lint.SharedPorts(next.snapshot, lint.LocalPorts(), next.text)...)
	return append(warnings, lint.Ways(next.snapshot, d.rooms(), d.netdev.FromClients(next.snapshot), next.text)...)
}

// mayChange refuses a snapshot that would cut off who asks for it, and one that would stay while another one is tried out.
func (d *Daemon) mayChange(next candidate, request api.ApplyRequest) error {
	if w := d.saved.Waiting; w != nil && request.Confirm == 0 && next.digest != w.Digest {
		return api.NewProblem(api.CodeConflict,
			"revision %d waits for confirmation until %s: `gardu confirm` keeps it, `gardu rollback` takes it back, and with --confirm another one can be tried instead",
			w.Revision, timeText(w.Wall))
	}
	session, ok := lint.Session(request.SSHConnection, d.netdev)
	if !ok || request.Force {
		return nil
	}
	if cut, ends := lint.Ends(next.snapshot, session, next.text); ends {
		return api.NewProblem(api.CodeCutOff, "%v", cut)
	}
	return nil
}

// problem gives errors that are the user's to solve a code of the API.
func problem(err error) error {
	if _, ok := errors.AsType[*compile.LimitError](err); ok {
		return api.NewProblem(api.CodeConfig, "%v", err)
	}
	if errors.Is(err, dataplane.ErrBusy) {
		return api.NewProblem(api.CodeConflict, "%v", err)
	}
	return err
}

// commit puts a candidate in force, all or nothing. changing is held, or nobody else is there yet.
func (d *Daemon) commit(next candidate, c compiled, how change) (err error) {
	want := reconcile.Want{Tables: c.tables, FlowsMax: c.flowsMax(), Reused: c.reused}
	forget := d.reconciler.Foresee(want) // the verifier takes its time
	defer func() { d.fault("give up programs that were loaded for nothing", forget()) }()
	d.lookAtPins() // without them it goes on unpinned
	door, err := d.prepareDoor(next)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, door.close())
			return
		}
		d.changeDoor(door)
	}()
	if err := d.beforeResize(c.flowsMax()); err != nil {
		return err
	}
	hopsFound := make(chan struct{})
	go func() { // neighbours may take their time to answer
		defer close(hopsFound)
		d.resolveHops(c.tables.Backends)
	}()
	d.syncExits(c.ids.Exits)
	// What the rules in force need at tc egress stays there until others are.
	restore, err := d.attachAll(withEgress(c.interfaces, d.hasEgress), c.ids.Interfaces)
	<-hopsFound
	if err != nil {
		return errors.Join(err, restore())
	}
	saved := d.saved
	promise := saved // what may be in the kernel from here on
	promise.IDs = c.ids
	promise.Rings, promise.Backends = union(d.reconciler.Have(), c.tables)
	entry := d.numbered(next, how)
	if how.confirm != 0 {
		promise.Waiting = d.wait(entry, how)
	}
	unwrite, err := d.writeDown(entry, next, promise, how)
	if err != nil {
		return errors.Join(err, unwrite(), restore())
	}
	d.step("promised")
	was := d.plane.FlowsSampled()
	if next.snapshot.Flows.Sample < 2 { // programs that don't sample may be in use from here on
		d.sampleFlows(1)
	}
	d.plane.WantDropped(next.snapshot.Flows.Dropped)
	d.plane.RoomForTranslations(next.snapshot.NAT.Max)
	err = d.reconciler.Apply(want, d.startState)
	untidy, _ := errors.AsType[*reconcile.UntidyError](err)
	if err != nil && untidy == nil {
		d.sampleFlows(was)
		return errors.Join(err, restore(), saved.save(d.options.StateDir), unwrite())
	}
	d.step("in force")
	if d.inherited != nil {
		d.tellLostLayouts()
	}
	d.fault("tidy up after the commit", err)
	d.sampleFlows(next.snapshot.Flows.Sample)
	d.fault("resize the table of dropped flows", d.resizeDropped())
	d.adopt(next, c, entry, how.kept(saved.Waiting, promise.Waiting))
	d.step("saved")
	if c.tables.Features.Services || c.tables.Features.Actions { // something may be sent from XDP
		d.fault("count what is lost after XDP sends it", d.plane.CountLosses())
	}
	return nil
}

// writeDown keeps what is about to come into force, before anything changes. unwrite, never nil, takes the revision back. A disk that syncs
// slowly is most of what a small change takes: the two files are written side by side, and directories synced when all is done, since the tables
// that this is about don't outlive the machine. What waits for confirmation does.
func (d *Daemon) writeDown(entry revision, next candidate, promise state, how change) (unwrite func() error, err error) {
	// What the file says already needs no room on disk: a machine whose disk is full starts with what was applied last.
	if how.confirm == 0 && d.onDisk != nil && promise.names(*d.onDisk) {
		return d.record(entry, next)
	}
	d.onDisk = nil
	if how.confirm != 0 {
		if unwrite, err = d.record(entry, next); err != nil {
			return unwrite, err
		}
		return unwrite, promise.save(d.options.StateDir)
	}
	promised := make(chan error, 1)
	go func() { promised <- promise.write(d.options.StateDir) }()
	unwrite, err = d.record(entry, next)
	return unwrite, errors.Join(err, <-promised)
}

// tellLostLayouts tells what began anew with the take-over of another version's data plane.
func (d *Daemon) tellLostLayouts() {
	lost := d.plane.Lost()
	if len(lost) == 0 {
		return
	}
	if slices.Contains(lost, "flows") { // the account of flows begins anew with them
		d.saved.Dropped, d.saved.DroppedLost = flow.Count{}, flow.Count{}
		d.dropped.Store(&flow.Count{})
		d.droppedLost.Store(&flow.Count{})
	}
	text := "taken over from another version, without " + strings.Join(lost, ", ")
	d.log.Warn(text)
	d.happened(api.Event{Kind: api.EventFault, Text: text})
}

// kept is what waits when a change has come into force.
func (how change) kept(before, promised *waiting) *waiting {
	switch {
	case how.ends:
		return nil
	case how.confirm == 0:
		return before
	}
	now := *promised
	now.InForce = true
	return &now
}

// numbered is a candidate as it is kept: under the number that it has, or would have.
func (d *Daemon) numbered(next candidate, how change) revision {
	r := revision{Number: d.saved.Revision, Time: d.saved.Applied, Author: how.author, How: how.how, Comment: how.comment, Of: how.of,
		Config: next.name, Dir: next.dir, Digest: next.digest, YAML: string(next.text)}
	if next.digest != d.saved.Digest {
		r.Number, r.Time = d.saved.Revision+1, time.Now()
	}
	return r
}

// wait is what waits once the revision is in force. changing is held.
func (d *Daemon) wait(r revision, how change) *waiting {
	return &waiting{Revision: r.Number, Back: d.before.Revision, Digest: r.Digest, Author: r.Author, deadline: readClocks().after(how.confirm)}
}

// record keeps a revision, unless it is there. forget, never nil, takes that back.
func (d *Daemon) record(r revision, next candidate) (forget func() error, err error) {
	nothing := func() error { return nil }
	if d.revisions.has(r.Number) && r.Number == d.saved.Revision || next.text == nil {
		return nothing, nil
	}
	if err := d.revisions.put(r); err != nil {
		return nothing, err
	}
	if err := d.revisions.prune(r.Number); err != nil {
		d.log.Warn("old revisions not removed", "error", err)
	}
	return func() error { return d.revisions.drop(r.Number) }, nil
}

// step tells tests how far a change has come.
func (d *Daemon) step(name string) {
	if d.options.step != nil {
		d.options.step(name)
	}
}

// adopt is what follows a commit. Nothing in it can go wrong for a packet.
func (d *Daemon) adopt(next candidate, c compiled, entry revision, waits *waiting) {
	now := &applied{candidate: next, compiled: c, revision: entry.Number, at: entry.Time,
		rules: turn(c.ids.Rules), services: turn(c.ids.Services), backends: map[backendName]compile.Backend{}}
	for _, b := range c.tables.Backends {
		now.backends[backendName{b.ServiceName, b.Name}] = b
	}
	was := d.saved.Waiting
	if was != nil && waits == nil { // it was taken back
		d.saved.Undone = &undone{Revision: was.Revision, Back: was.Back, As: now.revision, Digest: was.Digest, Time: time.Now(), Late: entry.How != byRollback}
	} else if u := d.saved.Undone; u != nil && u.Digest == next.digest && waits == nil {
		d.saved.Undone = nil
	}
	d.saved.Waiting = waits
	d.saved.IDs, d.saved.Revision, d.saved.Applied = c.ids, now.revision, now.at
	d.saved.Digest, d.saved.Config = next.digest, next.name
	d.saved.Rings, d.saved.Backends = union(d.reconciler.Have(), c.tables)
	synced := make(chan error, 1)
	go func() { synced <- d.revisions.sync() }()
	err := d.saveState()
	d.fault("sync the history to disk", <-synced)
	now.text = nil // it was for errors and the history
	d.current.Store(now)
	d.setWaiting(waits)
	if was != nil && waits == nil && err == nil {
		d.forgetBefore()
	}
	d.happened(api.Event{Kind: api.EventApply, Text: fmt.Sprintf("revision %d from %s: %d rules, %d sets, %d services", now.revision, now.name,
		len(now.snapshot.Filter.Rules), len(now.snapshot.Sets), len(now.snapshot.Services))})
	d.detachOthers(next.snapshot.Interfaces)
	d.detachEgress(c.interfaces)
	d.announce()
	targets := health.Targets(next.snapshot)
	d.syncChecks(targets)
	d.health.Set(targets, d.knownHealth)
	d.syncHealth()
	d.forgetHops(c.tables.Backends)
	d.forgetOrders(c.tables.Backends)
	d.inherited = nil
	d.lists.follow(next.snapshot.Sets, next.read)
	d.followSinks()
	d.tidyAt.Store(int64(time.Since(d.started) + tidyAfter))
}

// saveState saves what the next daemon must know. changing is held.
func (d *Daemon) saveState() error {
	err := d.saved.save(d.options.StateDir)
	if d.onDisk = nil; err == nil {
		written := d.saved
		d.onDisk = &written
	}
	d.fault("save what the next daemon must know", err)
	return err
}

// saveAgain saves it when that failed, or when a change failed.
func (d *Daemon) saveAgain() {
	d.changing.Lock()
	defer d.changing.Unlock()
	if d.onDisk == nil {
		d.saveState()
	}
}

// union lists the rings and backends that are in the kernel, or will be.
func union(have reconcile.Have, tables *compile.Tables) ([]compile.Ring, []compile.Backend) {
	for _, ring := range tables.Rings {
		have.Rings[ring.ID] = ring
	}
	for _, backend := range tables.Backends {
		have.Backends[backend.ID] = backend
	}
	return byID(have.Rings), byID(have.Backends)
}

func byID[K uint16 | uint32, V any](m map[K]V) []V {
	values := make([]V, 0, len(m))
	for _, id := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[id])
	}
	return values
}

// turn maps ids to names.
func turn[K uint16 | uint32](ids map[string]K) map[K]string {
	names := make(map[K]string, len(ids))
	for name, id := range ids {
		names[id] = name
	}
	return names
}

// checkInterfaces finds the interfaces that a candidate names and that don't exist, all of them. One that was there
// before may be away for now: it is attached when it comes back.
func (d *Daemon) checkInterfaces(c candidate) error {
	known := d.links.names()
	var wrong config.Errors
	for _, want := range c.snapshot.Interfaces {
		err := d.exists(want.Name)
		if err == nil || known[want.Name] {
			continue
		}
		wrong = append(wrong, &config.Error{
			Pos:     want.Pos,
			Msg:     fmt.Sprintf("interface %s: %v", want.Name, err),
			Allowed: d.interfaceNames(),
			Line:    config.LineOf(c.text, want.Pos.Line),
		})
	}
	if wrong == nil {
		return nil
	}
	return wrong
}
