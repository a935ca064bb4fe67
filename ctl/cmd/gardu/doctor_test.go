package main

import (
	"bytes"
	"strings"
	"testing"

	"gardu/ctl/doctor"
)

// What doctor says fits a terminal, and no word of it is lost.
func TestFindingsFit(t *testing.T) {
	all := []doctor.Finding{
		{Area: "machine", Subject: "jit", Result: doctor.OK, Found: "programs are compiled to machine code"},
		{Area: "backend", Subject: "signalling/b1", Result: doctor.Fail,
			Found:  "leg to the backend: nothing comes back from 10.0.0.11, whatever is sent, and this is said at length so that it needs two lines",
			Advice: "is it up, does its firewall drop everything, and does it have a route back to 192.0.2.2? " + strings.Repeat("x", 90)},
	}
	var out bytes.Buffer
	newApp(nil, &out, nil).printFindings(all)
	const want = `ok    jit            programs are compiled to machine code
fail  signalling/b1  leg to the backend: nothing comes back from 10.0.0.11,
                     whatever is sent, and this is said at length so that it
                     needs two lines
                     -> is it up, does its firewall drop everything, and does
                        it have a route back to 192.0.2.2?
                        `
	if got := strings.TrimRight(out.String(), "x\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
