package abi_test

import (
	"testing"

	"gardu/ctl/abi"
)

func TestEveryReasonHasItsTexts(t *testing.T) {
	seen := map[string]abi.Reason{}
	for r := range abi.ReasonCount {
		if r.String() == "" || r.Help() == "" {
			t.Errorf("reason %d has no text", uint32(r))
		}
		if other, twice := seen[r.String()]; twice {
			t.Errorf("reasons %d and %d are both called %s", uint32(other), uint32(r), r)
		}
		seen[r.String()] = r
	}
}

func TestTextsAreThoseOfTheRows(t *testing.T) {
	for _, c := range []struct {
		reason  abi.Reason
		text    string
		verdict string
	}{
		{abi.ReasonDefaultPass, "default-pass", "pass"},
		{abi.ReasonServiceFragment, "service-fragment", "drop"},
		{abi.ReasonForward, "forward", "forward"},
		{abi.ReasonEchoReply, "echo-reply", "redirect"},
	} {
		if c.reason.String() != c.text || c.reason.Verdict().String() != c.verdict {
			t.Errorf("reason %d is %s (%s), want %s (%s)", uint32(c.reason), c.reason, c.reason.Verdict(), c.text, c.verdict)
		}
	}
	if got := abi.StepNextHop.String(); got != "next-hop" {
		t.Errorf("step %d is %s", uint32(abi.StepNextHop), got)
	}
	if got := abi.Reason(99).String(); got != "reason-99" {
		t.Errorf("an unknown reason is %s", got)
	}
}
