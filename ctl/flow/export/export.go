package export

import (
	"sync"

	"gardu/ctl/flow"
	"gardu/ctl/flow/export/ipfix"
)

// Losses are reports that went nowhere, and the packets and bytes that they were of.
type Losses = ipfix.Losses

// Names tells what ids stand for, and where backends are.
type Names = ipfix.Names

// state is what became of an export.
type state struct {
	mu   sync.Mutex
	lost Losses
	err  error
}

// State says what was lost so far, and what is wrong at the moment; nil if nothing is.
func (s *state) State() (Losses, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost, s.err
}

// lose counts reports that are lost, because of err unless it is nil.
func (s *state) lose(reports []flow.Report, err error) {
	var lost Losses
	lost.Add(reports)
	s.loseAll(lost, err)
}

func (s *state) loseAll(lost Losses, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost.Merge(lost)
	if err != nil {
		s.err = err
	}
}

// set says what is wrong now.
func (s *state) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}
