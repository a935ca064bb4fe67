package flow

import (
	"strings"
	"testing"
	"time"

	"gardu/ctl/abi"
)

// A time that carries the monotonic clock along can't tell that the time of day was set.
func TestClockSeesTheTimeOfDay(t *testing.T) {
	if c := NewClock(abi.Clock{}, 250, time.Now()); strings.Contains(c.wall.String(), "m=") {
		t.Errorf("%s", c.wall)
	}
}
