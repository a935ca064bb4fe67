package api_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/api/client"
)

func TestHistory(t *testing.T) {
	c := client.New(serve(t, &apitest.Engine{}))
	defer c.Close()
	since := apitest.Now.Add(-time.Hour)
	for _, q := range []struct {
		query api.HistoryQuery
		want  string // sources and packets, in order
	}{
		{api.HistoryQuery{Group: "src"}, "198.51.100.7/1500 2001:db8::1/600 /400 203.0.113.9/30 undecided 0"},
		{api.HistoryQuery{Group: "src", Sort: "flows"}, "198.51.100.7/1500 2001:db8::1/600 /400 203.0.113.9/30 undecided 0"},
		{api.HistoryQuery{Group: "src", Sort: "packets", Limit: 1}, "198.51.100.7/1500 /1030 undecided 0"},
		{api.HistoryQuery{Limit: 4, Filter: "dport 443"}, "198.51.100.7/1500 2001:db8::1/600 /400 203.0.113.9/30 undecided 1000"},
	} {
		q.query.Since, q.query.Until = since, apitest.Now
		history, err := c.History(t.Context(), q.query)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, g := range history.Groups {
			got += fmt.Sprintf("%s/%d ", g.Group["src"], g.Packets)
			if _, known := g.Group["src"]; known == g.Other {
				t.Errorf("%+v: %+v", q.query, g)
			}
		}
		if got += fmt.Sprint("undecided ", history.Undecided.Packets); got != q.want {
			t.Errorf("%+v: %s, want %s", q.query, got, q.want)
		}
		if !history.Since.Equal(since) || !history.Until.Equal(apitest.Now) {
			t.Errorf("%v to %v", history.Since, history.Until)
		}
	}
	if history, err := c.History(t.Context(), api.HistoryQuery{Since: since}); err != nil || time.Since(history.Until) > time.Minute {
		t.Errorf("until %v, %v", history.Until, err)
	}
	for _, wrong := range []api.HistoryQuery{
		{Since: since, Until: since},
		{Since: since, Filter: "src x"},
		{Since: since, Group: "x"},
		{Since: since, Sort: "rate"},
		{Since: since, Limit: -1},
	} {
		if problem, ok := errors.AsType[*api.Problem](errOf(c.History(t.Context(), wrong))); !ok || problem.Code != api.CodeInvalid {
			t.Errorf("%+v: %v", wrong, problem)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }
