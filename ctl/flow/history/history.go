package history

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"gardu/ctl/flow"
)

// writeEvery is how often what was reported is written, and so the most that a crash loses.
const writeEvery = time.Minute

// queryMax bounds the queries that read at once, and queryTime each of them: while they read, the log grows.
const (
	queryMax  = 2
	queryTime = 30 * time.Second
)

// History keeps what it is told of flows. It never stops its caller for longer than a look into memory, except in Query and Close.
type History struct {
	log     *slog.Logger
	now     func() time.Time
	queries chan struct{}

	adding sync.Mutex // guards what follows
	roller *Roller
	counts Totals
	taken  Counts // of what is being written

	writing sync.Mutex // guards what follows; taken before adding
	options Options
	store   *Store // nil while it can't be opened

	told   sync.Mutex // guards what follows
	status Status     // but for the totals
}

// Totals is what became of what was reported since the start: Reported = Written + Pending + Lost, exactly.
type Totals struct {
	Reported Counts
	Written  Counts
	Pending  Counts // in memory
	Lost     Counts // too old when it came, or there was no room in memory while the file couldn't be written
}

// Status is how the history is.
type Status struct {
	Totals
	Path    string
	Size    int64 // in bytes, of all files
	MaxSize int64
	Since   [levelCount]time.Time // of the oldest minute, five minutes, hour and day that are kept; zero while the file can't be opened
	Err     error                 // why the last write failed
	Problem error                 // what was wrong with a file that was set aside since the start
}

// New opens a history by a clock of the time of day. When the file can't be opened it goes on trying, and Status tells.
func New(options Options, now func() time.Time, log *slog.Logger) *History {
	h := &History{log: log, now: now, queries: make(chan struct{}, queryMax), roller: NewRoller(options.Top), options: options}
	h.writing.Lock()
	defer h.writing.Unlock()
	h.tell(h.open())
	return h
}

// open opens the file if it isn't. writing is held.
func (h *History) open() error {
	if h.store != nil {
		return nil
	}
	store, problem, err := Open(h.options, h.now())
	if err != nil {
		return err
	}
	h.store = store
	h.setAside(problem)
	return nil
}

// Set changes what is kept, and where.
func (h *History) Set(options Options) {
	h.writing.Lock()
	defer h.writing.Unlock()
	if options == h.options {
		return
	}
	h.tell(h.write())
	h.close()
	h.options = options
	h.adding.Lock()
	h.roller.top = options.Top
	h.adding.Unlock()
	h.tell(h.open())
}

// Consume takes reports.
func (h *History) Consume(reports []flow.Report, names flow.Names) {
	h.adding.Lock()
	defer h.adding.Unlock()
	for i := range reports {
		h.counts.Reported = h.counts.Reported.Plus(countsOf(&reports[i]))
	}
	h.roller.Add(reports, names, h.now())
}

// Run writes once a minute until ctx ends, and then once more.
func (h *History) Run(ctx context.Context) error {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			h.Write()
			return nil
		case <-ticker.C:
			h.Write()
		}
	}
}

// Write writes what was reported. What can't be written stays in memory, as far as there is room.
func (h *History) Write() error {
	h.writing.Lock()
	defer h.writing.Unlock()
	err := h.write()
	h.tell(err)
	return err
}

func (h *History) write() error {
	if err := h.open(); err != nil {
		return err
	}
	h.adding.Lock()
	batch := h.roller.Take()
	h.taken = batch.Sum()
	h.adding.Unlock()
	now := h.now()
	late, err := h.store.Write(&batch, now)
	if corrupt(err) {
		if err = h.replace(err, now); err == nil {
			var more Counts
			more, err = h.store.Write(&batch, now)
			late = late.Plus(more)
		}
	}
	h.adding.Lock()
	defer h.adding.Unlock()
	left := batch.Sum()
	h.counts.Written = h.counts.Written.Plus(h.taken.minus(left).minus(late))
	h.counts.Lost = h.counts.Lost.Plus(late)
	h.taken = Counts{}
	h.roller.Restore(batch)
	return err
}

// replace sets aside a file that can't be read. writing is held.
func (h *History) replace(cause error, now time.Time) error {
	problem, err := h.store.SetAside(cause, now)
	if err != nil {
		h.store = nil // it is closed
		return err
	}
	h.setAside(problem)
	return nil
}

func (h *History) setAside(problem error) {
	if problem == nil {
		return
	}
	h.log.Error("history begins anew", "error", problem)
	h.told.Lock()
	defer h.told.Unlock()
	h.status.Problem = problem
}

// tell notes how the file is, and logs errors when they begin and when they end. writing is held.
func (h *History) tell(err error) {
	h.told.Lock()
	before, now := h.status.Err, Status{MaxSize: h.options.MaxSize, Err: err, Problem: h.status.Problem}
	if h.store != nil {
		now.Path, now.Size, now.Since = h.store.path, h.store.Size(), h.store.Since()
	}
	h.status = now
	h.told.Unlock()
	switch {
	case err != nil && before == nil:
		h.log.Error("history not written; what is reported stays in memory as far as there is room", "error", err)
	case err == nil && before != nil:
		h.log.Info("history is written again")
	}
}

// ErrUnavailable is a history whose file can't be opened.
var ErrUnavailable = errors.New("the history can't be opened")

// Query answers a query, from all that was reported before. The error may be a *QueryError.
func (h *History) Query(ctx context.Context, q Query) (Answer, error) {
	if _, err := q.table(); err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	select {
	case h.queries <- struct{}{}:
		defer func() { <-h.queries }()
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
	writeErr := h.Write() // if that fails there is still what was written before
	h.writing.Lock()
	store := h.store
	h.writing.Unlock()
	if store == nil {
		return Answer{}, errors.Join(ErrUnavailable, writeErr)
	}
	answer, err := store.Query(ctx, q)
	if !corrupt(err) {
		return answer, err
	}
	h.writing.Lock()
	defer h.writing.Unlock()
	if h.store == store {
		err = errors.Join(err, h.replace(err, h.now()))
	}
	return Answer{}, err
}

// Status says how the history is, as of the last write.
func (h *History) Status() Status {
	h.told.Lock()
	s := h.status
	h.told.Unlock()
	h.adding.Lock()
	defer h.adding.Unlock()
	s.Totals = h.counts
	s.Pending = h.roller.Pending().Plus(h.taken)
	s.Lost = s.Lost.Plus(h.roller.Lost())
	return s
}

// Close writes what is pending and closes the file.
func (h *History) Close() error {
	h.writing.Lock()
	defer h.writing.Unlock()
	return errors.Join(h.write(), h.close())
}

func (h *History) close() error {
	if h.store == nil {
		return nil
	}
	err := h.store.Close()
	h.store = nil
	return err
}
