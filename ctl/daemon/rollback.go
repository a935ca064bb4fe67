package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gardu/ctl/api"
)

// Revisions lists the snapshots that are kept, the newest first.
func (d *Daemon) Revisions(context.Context) ([]api.Revision, error) {
	numbers, err := d.revisions.numbers()
	if err != nil {
		return nil, err
	}
	now := d.current.Load().revision
	var list []api.Revision
	for _, number := range slices.Backward(numbers) {
		if number > now {
			continue // about to come into force
		}
		r, err := d.revisions.get(number)
		if errors.Is(err, errNoRevision) {
			continue // it has just gone
		}
		entry := r.wire()
		if entry.State = d.revisionState(number, now); err != nil {
			entry = api.Revision{Revision: number, State: api.RevisionDamaged, Error: err.Error()}
		}
		list = append(list, entry)
	}
	return list, nil
}

func (d *Daemon) revisionState(number, now uint64) string {
	switch w := d.waiting.Load(); {
	case number != now:
		return api.RevisionPast
	case w != nil && w.Revision == number:
		return api.RevisionWaiting
	default:
		return api.RevisionInForce
	}
}

// Revision returns one of them with its text.
func (d *Daemon) Revision(_ context.Context, number uint64) (api.Revision, error) {
	now := d.current.Load()
	if number == 0 {
		number = now.revision
	}
	r, err := d.keptRevision(number)
	if err != nil {
		return api.Revision{}, err
	}
	entry := r.wire()
	if number == now.revision {
		entry.Tag = now.tag()
	}
	entry.State, entry.YAML, entry.Dir = d.revisionState(number, now.revision), r.YAML, r.Dir
	return entry, nil
}

// keptRevision reads a revision, with a problem that says which ones there are.
func (d *Daemon) keptRevision(number uint64) (revision, error) {
	r, err := d.revisions.get(number)
	switch {
	case number > d.current.Load().revision || errors.Is(err, errNoRevision):
		return revision{}, api.NewProblem(api.CodeNotFound, "there is no revision %d; %s", number, d.keptText())
	case err != nil:
		return revision{}, api.NewProblem(api.CodeConflict, "%v", err)
	}
	return r, nil
}

func (d *Daemon) keptText() string {
	numbers, err := d.revisions.numbers()
	if err != nil || len(numbers) == 0 {
		return "none is kept"
	}
	return fmt.Sprintf("%d to %d are kept", numbers[0], d.current.Load().revision)
}

// Rollback puts an older snapshot in force again, as a new revision. While one waits for confirmation, it goes back to what
// was before.
func (d *Daemon) Rollback(ctx context.Context, request api.RollbackRequest) (api.ApplyResult, error) {
	if result, done, err := d.rollbackWaiting(ctx, request); done {
		return result, err
	}
	number := request.Revision
	if number == 0 {
		number = d.olderRevision()
	}
	if number == 0 {
		return api.ApplyResult{}, api.NewProblem(api.CodeNotFound, "there is nothing to go back to: no revision before %d is kept", d.current.Load().revision)
	}
	r, err := d.keptRevision(number)
	if err != nil {
		return api.ApplyResult{}, err
	}
	result, err := d.apply(api.ApplyRequest{Name: r.Config, Dir: r.Dir, YAML: r.YAML, Confirm: request.Confirm,
		SSHConnection: request.SSHConnection, Force: request.Force, IfMatch: request.IfMatch},
		change{how: byRollback, of: number, author: api.Author(ctx), comment: request.Comment})
	if err != nil {
		d.notApplied(fmt.Sprintf("revision %d", number), err)
	} else if result.Changed {
		d.log.Info("rolled back", "to the snapshot of", number, "revision", result.Revision)
	}
	return result, err
}

// olderRevision is the newest before the one in force, 0 when there is none.
func (d *Daemon) olderRevision() (older uint64) {
	numbers, err := d.revisions.numbers()
	if err != nil {
		return 0
	}
	for _, number := range numbers {
		if number < d.current.Load().revision {
			older = number
		}
	}
	return older
}

// rollbackWaiting goes back from a snapshot that waits. done is false when none does.
func (d *Daemon) rollbackWaiting(ctx context.Context, request api.RollbackRequest) (result api.ApplyResult, done bool, err error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	w := d.saved.Waiting
	if w == nil {
		return result, false, nil
	}
	if err := d.checkCurrent(request.IfMatch); err != nil {
		return result, true, err
	}
	if request.Revision != 0 && request.Revision != w.Back {
		return result, true, api.NewProblem(api.CodeConflict,
			"revision %d waits for confirmation: `gardu confirm` keeps it, `gardu rollback` alone goes back to what revision %d held", w.Revision, w.Back)
	}
	err = d.goBack(change{how: byRollback, author: api.Author(ctx), comment: request.Comment})
	if err != nil {
		return result, true, problem(err)
	}
	snapshot := d.current.Load().snapshot
	return api.ApplyResult{Revision: d.saved.Revision, Tag: d.current.Load().tag(), Changed: true, Rules: len(snapshot.Filter.Rules), Sets: len(snapshot.Sets),
		Services: len(snapshot.Services)}, true, nil
}
