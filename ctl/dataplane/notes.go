package dataplane

import (
	"fmt"
	"time"

	"gardu/ctl/abi"
)

// BackendNote is what somebody ordered of a backend while running, and when it began to start slowly. The programs don't read it; it is
// in the kernel so that it lives as long as the backend's state there.
type BackendNote struct {
	Drained time.Time // since when it gets no new flows; zero: it does
	Until   time.Time // when the flows that are left go elsewhere; zero: never
	Weight  *int      // instead of the configuration's
	Slow    time.Time // since when it starts slowly, to the second; zero: it has its whole weight
}

// BackendNotes are those that there are, by backend id.
func (d *Dataplane) BackendNotes() (map[uint16]BackendNote, error) {
	notes := map[uint16]BackendNote{}
	err := each(d.maps[abi.AbiMapBackendNotes], func(id uint32, note abi.BackendNote) {
		n := BackendNote{Drained: wallTime(note.Drained), Until: wallTime(note.Until)}
		if note.Slow != 0 {
			n.Slow = time.Unix(int64(note.Slow), 0)
		}
		if note.Weight != 0 {
			weight := int(note.Weight) - 1
			n.Weight = &weight
		}
		notes[uint16(id)] = n
	})
	return notes, err
}

// SetBackendNote keeps a note; the zero one is removed.
func (d *Dataplane) SetBackendNote(id uint16, note BackendNote) error {
	m := d.maps[abi.AbiMapBackendNotes]
	if note == (BackendNote{}) {
		return absent(m.Delete(uint32(id)), fmt.Sprintf("forget the order for backend %d", id))
	}
	value := abi.BackendNote{Drained: wallNano(note.Drained), Until: wallNano(note.Until)}
	if note.Weight != nil {
		value.Weight = uint32(*note.Weight) + 1
	}
	if !note.Slow.IsZero() {
		value.Slow = uint32(note.Slow.Unix())
	}
	if err := m.Put(uint32(id), &value); err != nil {
		return fmt.Errorf("keep the order for backend %d: %w", id, err)
	}
	return nil
}

func wallTime(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns))
}

func wallNano(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}
