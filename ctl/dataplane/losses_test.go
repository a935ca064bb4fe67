package dataplane

import "testing"

// What they count is in package e2e. Here: every kernel takes them, beside whatever sizes the other maps have.
func TestLossProgramsLoad(t *testing.T) {
	d := private(t, allOff())
	for range 2 { // the second time there is nothing to do
		if err := d.CountLosses(); err != nil {
			t.Fatal(err)
		}
	}
	if losses, err := d.Losses(); err != nil || len(losses) > 0 {
		t.Errorf("%v, %v", losses, err)
	}
}
