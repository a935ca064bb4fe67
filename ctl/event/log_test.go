package event

import (
	"context"
	"slices"
	"testing"
)

func TestLogKeepsTheLast(t *testing.T) {
	log := NewLog[int](3)
	for i := range 8 {
		log.Add(i)
		want := []int{0, 1, 2, 3, 4, 5, 6, 7}[max(0, i-2) : i+1]
		if got := log.Last(-1); !slices.Equal(got, want) {
			t.Errorf("after %d: %v, want %v", i, got, want)
		}
	}
	if got := log.Last(2); !slices.Equal(got, []int{6, 7}) {
		t.Errorf("last two: %v", got)
	}
	if got := log.Last(0); len(got) != 0 {
		t.Errorf("last none: %v", got)
	}
}

func TestFollowerThatIsSlowLosesAndIsTold(t *testing.T) {
	log := NewLog[int](3)
	log.Add(0)
	last, f := log.Follow(1, 2)
	defer f.Close()
	if !slices.Equal(last, []int{0}) {
		t.Errorf("last: %v", last)
	}
	for i := 1; i <= 5; i++ {
		log.Add(i)
	}
	var got []int
	var lost uint64
	for range 2 {
		event, n, ok := f.Next(context.Background())
		if !ok {
			t.Fatal("it ended")
		}
		got, lost = append(got, event), lost+n
	}
	if !slices.Equal(got, []int{1, 2}) || lost != 3 {
		t.Errorf("got %v, lost %d", got, lost)
	}
	log.Close()
	if _, _, ok := f.Next(context.Background()); ok {
		t.Error("it goes on after the end")
	}
	if _, f := log.Follow(0, 1); f != nil {
		if _, _, ok := f.Next(context.Background()); ok {
			t.Error("a follower that came too late has something to follow")
		}
	}
}

func TestFollowerEndsWithItsContext(t *testing.T) {
	log := NewLog[int](1)
	_, f := log.Follow(0, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, ok := f.Next(ctx); ok {
		t.Error("it has an event")
	}
}

func TestPassedEventsAreNotKept(t *testing.T) {
	log := NewLog[int](3)
	_, f := log.Follow(0, 1)
	defer f.Close()
	log.Pass(7)
	if event, _, ok := f.Next(context.Background()); !ok || event != 7 {
		t.Errorf("the follower got %d, %t", event, ok)
	}
	if last := log.Last(-1); len(last) != 0 {
		t.Errorf("kept: %v", last)
	}
}
