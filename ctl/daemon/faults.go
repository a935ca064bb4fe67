package daemon

import (
	"fmt"
	"slices"
	"sync"

	"gardu/ctl/api"
)

// faults are errors of what runs by itself, by what was tried, until it succeeds.
type faults struct {
	mu   sync.Mutex
	errs map[string]error
}

// set records how an attempt ended, and says whether that is news.
func (f *faults) set(tried string, err error) (news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, failed := f.errs[tried]
	if f.errs == nil {
		f.errs = map[string]error{}
	}
	if err == nil {
		delete(f.errs, tried)
	} else {
		f.errs[tried] = err
	}
	return failed != (err != nil)
}

// all returns them as text, sorted.
func (f *faults) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	texts := make([]string, 0, len(f.errs))
	for tried, err := range f.errs {
		texts = append(texts, fmt.Sprintf("%s: %s", tried, summary(err)))
	}
	slices.Sort(texts)
	return texts
}

// fault records how an attempt ended. Its first failure and the success that follows are a line in the log and an event each; in between
// `status` warns.
func (d *Daemon) fault(tried string, err error) {
	if !d.faults.set(tried, err) {
		return
	}
	if err == nil {
		d.log.Info("works again", "what", tried)
		d.happened(api.Event{Kind: api.EventMended, Text: tried})
		return
	}
	d.log.Error("failed", "what", tried, "error", err)
	d.happened(api.Event{Kind: api.EventFault, Text: fmt.Sprintf("%s: %s", tried, summary(err))})
}
