package event

import (
	"context"
	"sync"
)

// Log keeps the last events and hands new ones to its followers. It is safe for concurrent use.
type Log[T any] struct {
	mu        sync.Mutex
	last      []T // a ring
	next      int // place of the next event, once the ring is full
	followers map[*Follower[T]]bool
	closed    bool
	added     uint64
	number    func(*T, uint64) // nil: they have none
}

// NewLog returns a log of at most keep events.
func NewLog[T any](keep int) *Log[T] {
	return &Log[T]{last: make([]T, 0, keep), followers: map[*Follower[T]]bool{}}
}

// NewNumberedLog returns a log of at most keep events that tells each that it keeps which one it is, from 1 on.
func NewNumberedLog[T any](keep int, number func(event *T, n uint64)) *Log[T] {
	l := NewLog[T](keep)
	l.number = number
	return l
}

// Add appends an event. It never waits: a follower that has no room for it loses it.
func (l *Log[T]) Add(event T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.added++; l.number != nil {
		l.number(&event, l.added)
	}
	if len(l.last) < cap(l.last) {
		l.last = append(l.last, event)
	} else if len(l.last) > 0 {
		l.last[l.next] = event
		l.next = (l.next + 1) % len(l.last)
	}
	l.tell(event)
}

// Pass hands an event to the followers without keeping it: one of many that only matter to who looks on.
func (l *Log[T]) Pass(event T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(event)
}

func (l *Log[T]) tell(event T) {
	for f := range l.followers {
		select {
		case f.events <- event:
		default:
			f.lost++
		}
	}
}

// Close ends all followers, and those to come.
func (l *Log[T]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for f := range l.followers {
		close(f.events)
		delete(l.followers, f)
	}
}

// Last returns the last n events, the oldest first; n < 0: all that are kept.
func (l *Log[T]) Last(n int) []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastOf(n)
}

func (l *Log[T]) lastOf(n int) []T {
	all := append(append([]T{}, l.last[l.next:]...), l.last[:l.next]...)
	if n >= 0 && n < len(all) {
		return all[len(all)-n:]
	}
	return all
}

// Follow returns the last n events, and a follower that gets every one from then on, as long as it has room for them. Close it.
func (l *Log[T]) Follow(n, room int) ([]T, *Follower[T]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &Follower[T]{log: l, events: make(chan T, room)}
	if l.closed {
		close(f.events)
	} else {
		l.followers[f] = true
	}
	return l.lastOf(n), f
}

// Follower gets the events of a log. Next is for one goroutine.
type Follower[T any] struct {
	log    *Log[T]
	events chan T
	lost   uint64 // guarded by the log
}

// Next waits for an event. lost is how many were lost since the last call, before this event or some of those that are waiting;
// ok is false when the log was closed or ctx ended.
func (f *Follower[T]) Next(ctx context.Context) (event T, lost uint64, ok bool) {
	select {
	case event, ok = <-f.events:
	case <-ctx.Done():
	}
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	lost, f.lost = f.lost, 0
	return event, lost, ok
}

// Waiting is how many events are there to be taken.
func (f *Follower[T]) Waiting() int { return len(f.events) }

// Close ends following.
func (f *Follower[T]) Close() {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	delete(f.log.followers, f)
}
