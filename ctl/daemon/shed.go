package daemon

import (
	"time"

	"gardu/ctl/abi"
)

// shedFrom is from how many lines on the table of sets isn't kept: of a list of a million it is a fourth of all memory that an idle daemon takes.
const shedFrom = 1 << 14

// shed lets go of the table of sets while nothing changes. The kernel has it too.
func (d *Daemon) shed() {
	d.changing.Lock()
	defer d.changing.Unlock()
	if d.tidyAt.Load() == 0 && len(d.current.Load().tables.Sets) >= shedFrom { // else something is changing again
		d.haveSets(nil)
	}
}

// recallSets takes the table of sets from the kernel again, so that a change of something else needn't make it anew. When it can't be had,
// that is all that happens. changing is held.
func (d *Daemon) recallSets() {
	if now := d.current.Load(); now == nil || now.tables.Sets != nil {
		return
	}
	lines, err := d.plane.Lines(abi.TableSets)
	if err != nil {
		d.log.Warn("table of sets not read; it is made anew", "error", err)
		return
	}
	d.haveSets(lines)
	d.tidyAt.Store(int64(time.Since(d.started) + tidyAfter))
}

// haveSets replaces the lines of sets of what is in force. changing is held.
func (d *Daemon) haveSets(lines []abi.Line) {
	now := *d.current.Load()
	tables := *now.tables
	tables.Sets = lines
	now.tables = &tables
	d.reconciler.Tables(&tables)
	d.current.Store(&now)
}
