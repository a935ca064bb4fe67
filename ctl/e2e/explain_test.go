package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"gardu/ctl/api"
)

// A packet from the middle of a connection is explained with what is known of it: where it is, whatever the ring says of others now.
func TestExplainKnowsTheFlow(t *testing.T) {
	w := newWorld(t, 3)
	w.startWeb()
	w.start(planWorld(twoOfThem))
	w.ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := w.client.Dial(ctx, "tcp", "192.0.2.10:80")
	w.must(err)
	defer conn.Close()
	answers := bufio.NewReader(conn)
	served := func() string {
		t.Helper()
		_, err := io.WriteString(conn, "GET /name HTTP/1.1\r\nHost: web\r\n\r\n")
		w.must(err)
		answer, err := http.ReadResponse(answers, nil)
		w.must(err)
		name, err := io.ReadAll(answer.Body)
		w.must(err)
		return string(name)
	}
	on := served()
	explain := func(request api.ExplainRequest) api.Explanation {
		t.Helper()
		request.Packet = fmt.Sprintf("tcp %s > 192.0.2.10:80 psh ack len 10", conn.LocalAddr())
		told, err := w.api.Explain(t.Context(), request)
		w.must(err)
		return told
	}
	told := explain(api.ExplainRequest{})
	if f := told.Flow; told.Backend != on || f == nil || f.State != "established" || f.Backend != on || f.Service != "web" || f.Packets < 3 {
		t.Errorf("it is on %s: %+v, flow %+v", on, told, told.Flow)
	}

	_, err = w.api.Drain(t.Context(), api.DrainRequest{Service: "web", Backend: on})
	w.must(err)
	w.until("others go elsewhere", func() error {
		if told := explain(api.ExplainRequest{AsNewFlow: true}); told.Backend == on || told.Flow != nil {
			return fmt.Errorf("to %s, flow %+v", told.Backend, told.Flow)
		}
		return nil
	})
	if told := explain(api.ExplainRequest{}); told.Backend != on {
		t.Errorf("its backend %s drains: %+v", on, told)
	}
	if now := served(); now != on {
		t.Errorf("it is on %s, and was on %s", now, on)
	}

	// A new snapshot judges it again, and leaves it there.
	w.apply(planWorld(threeOfThem))
	if told := explain(api.ExplainRequest{}); told.Backend != on || told.Flow == nil {
		t.Errorf("it is on %s: %+v", on, told)
	}
	if c := told.Cost; c == nil || c.Runs == 0 || c.Ns <= 0 || c.Empty <= 0 || !strings.Contains(c.How, "known flow") {
		t.Errorf("its cost: %+v", told.Cost)
	}
	if c := explain(api.ExplainRequest{AsNewFlow: true}).Cost; c == nil || c.Runs == 0 || c.Ns <= 0 || !strings.Contains(c.How, "first packet of a flow") {
		t.Errorf("the cost of a new flow's: %+v", c)
	}
	out, err := w.gardu("explain", fmt.Sprintf("tcp %s > 192.0.2.10:80 fin ack", conn.LocalAddr()))
	w.must(err)
	if want := "flow     established on backend " + on + " since "; !strings.Contains(out, want) {
		t.Errorf("%q is missing:\n%s", want, out)
	}
	before := explain(api.ExplainRequest{}).Flow.Packets
	if served(); explain(api.ExplainRequest{}).Flow.Packets == before {
		t.Error(errors.New("its packets aren't told"))
	}
}
