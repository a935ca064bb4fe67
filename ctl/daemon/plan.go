package daemon

import (
	"context"
	"slices"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/plan"
)

// Plan says what Apply of a configuration would change. What Apply refuses because it is wrong is an error here too; what it
// would take with --force, or at another time, is told as refused.
func (d *Daemon) Plan(ctx context.Context, request api.PlanRequest) (api.Plan, error) {
	next, err := d.parse(request.Name, []byte(request.YAML), request.Dir)
	if err != nil {
		return api.Plan{}, err
	}
	d.planning.Lock() // what a plan needs is made once, however many ask
	defer d.planning.Unlock()
	now, c, result, err := d.prepare(next, request)
	if err != nil {
		return api.Plan{}, err
	}
	result.Changes = plan.Diff(now.snapshot, next.snapshot)
	state := d.reconciler.Runtimes(slices.Concat(now.tables.Rings, c.tables.Rings)...)
	result.Services = plan.Shares(plan.Side{Snapshot: now.snapshot, Rings: now.tables.Rings}, plan.Side{Snapshot: next.snapshot, Rings: c.tables.Rings}, state)
	if !result.Changed {
		return result, nil
	}
	if err := d.foresee(ctx, now, c, state, request, &result); err != nil {
		return api.Plan{}, err
	}
	return result, nil
}

// foresee says what would become of live flows, and what a packet would take. The rest of a plan is as true without them.
func (d *Daemon) foresee(ctx context.Context, now *applied, c compiled, state map[uint16]compile.Runtime, request api.PlanRequest, result *api.Plan) error {
	t, err := d.newTrial(now, c, state, request.SSHConnection)
	if err == nil {
		defer t.close()
		err = t.load()
	}
	price := func() (*api.PlannedPrice, error) { return nil, err }
	if t != nil && !request.NoPrice {
		price = t.price(ctx) // whose programs the kernel verifies while flows are judged
	}
	if err == nil {
		result.Flows, err = t.judgeAll(ctx)
	}
	if err != nil {
		d.log.Warn("live flows not judged for a plan", "error", err)
		result.Flows = &api.PlannedFlows{Unjudged: err.Error(), Otherwise: []api.PlannedVerdict{}, Services: []api.PlannedAssignment{}}
	}
	if result.Price, err = price(); err != nil && !request.NoPrice {
		d.log.Warn("price not measured for a plan", "error", err)
		result.Price = &api.PlannedPrice{Error: err.Error()}
	}
	return ctx.Err()
}

// prepare checks a candidate as Apply does and compiles it, which no change has to wait for.
func (d *Daemon) prepare(next candidate, request api.PlanRequest) (now *applied, c compiled, result api.Plan, err error) {
	now, result, ids, err := d.judge(next, request)
	if err != nil {
		return nil, compiled{}, api.Plan{}, err
	}
	result.Warnings = api.Warnings(append(next.warnings, d.lint(next, request.SSHConnection)...))
	c, err = compileAfter(now, ids, next)
	return now, c, result, problem(err)
}

// judge finds what Apply would say against a candidate.
func (d *Daemon) judge(next candidate, request api.PlanRequest) (now *applied, result api.Plan, ids compile.IDs, err error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	d.recallSets()
	now = d.current.Load()
	if err = d.checkInterfaces(next); err == nil {
		err = d.checkWritable(next)
	}
	if err == nil {
		_, err = d.access(next)
	}
	if err == nil {
		err = checkShrinks(now, next)
	}
	if err != nil {
		return nil, api.Plan{}, compile.IDs{}, err
	}
	result = api.Plan{Revision: now.revision, Tag: now.tag(), Changed: next.digest != now.digest || !sameLists(next.snapshot, now.snapshot)}
	if result.Changed {
		if err := d.mayChange(next, api.ApplyRequest{SSHConnection: request.SSHConnection}); err != nil {
			result.Refused = err.Error()
		}
	}
	return now, result, d.saved.IDs, nil
}
