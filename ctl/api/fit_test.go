package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
)

// requests is one of each operation that succeeds.
var requests = []struct{ method, path, body string }{
	{"DELETE", "/v1/blocks?prefix=203.0.113.7/32", ""},
	{"DELETE", "/v1/capture?name=1", ""},
	{"DELETE", "/v1/drains?service=web&backend=b1", ""},
	{"GET", "/v1/backends", ""},
	{"GET", "/v1/blocks", ""},
	{"GET", "/v1/events?filter=kind+log", ""},
	{"GET", "/v1/flows?group=src", ""},
	{"GET", "/v1/flows?sort=src", ""},
	{"GET", "/v1/history?since=2026-11-22T12:00:00Z", ""},
	{"GET", "/v1/openapi.json", ""},
	{"GET", "/v1/revision?number=7", ""},
	{"GET", "/v1/revisions", ""},
	{"GET", "/v1/rules", ""},
	{"GET", "/v1/loglevel", ""},
	{"GET", "/v1/services", ""},
	{"GET", "/v1/sets", ""},
	{"GET", "/v1/snapshot", ""},
	{"GET", "/v1/status", ""},
	{"GET", "/v1/top?group=src", ""},
	{"POST", "/v1/blocks", `[{"prefix":"203.0.113.7/32","for":60,"why":"scan"}]`},
	{"POST", "/v1/capture", `{}`},
	{"POST", "/v1/confirm", `{}`},
	{"POST", "/v1/drains", `{"service":"web","backend":"b1","timeout":1}`},
	{"POST", "/v1/explain", `{"packet":"tcp 198.51.100.7:40000 > 192.0.2.10:443 syn"}`},
	{"POST", "/v1/plan", `{"yaml":"x"}`},
	{"POST", "/v1/rollback", `{}`},
	{"POST", "/v1/tokens", `{"name":"ci","scope":"operate","for":60}`},
	{"GET", "/v1/tokens", ""},
	{"DELETE", "/v1/tokens?name=ci", ""},
	{"PUT", "/v1/loglevel", `{"level":"debug","for":60}`},
	{"PUT", "/v1/snapshot", `{"yaml":"x"}`},
	{"PUT", "/v1/weights", `{"service":"web","backend":"b1","weight":3}`},
}

// Each operation answers as the document says, also with server-sent events and with a problem.
func TestAnswersFitTheDocument(t *testing.T) {
	document, err := apitest.LoadDocument()
	if err != nil {
		t.Fatal(err)
	}
	socket := serve(t, &apitest.Engine{})
	failing := serve(t, &apitest.Engine{Fail: api.NewProblem(api.CodeConflict, "not now")})
	var asked []string
	for _, r := range requests {
		path, _, _ := strings.Cut(r.path, "?")
		asked = append(asked, r.method+" "+path)
		for _, accept := range []string{"", "text/event-stream"} {
			response, body := rawAccept(t, socket, r.method, r.path, r.body, accept)
			if response.StatusCode != http.StatusOK || len(body) == 0 {
				t.Errorf("%s %s: %d: %s", r.method, r.path, response.StatusCode, body)
			}
			if err := document.Fits(r.method, r.path, response.StatusCode, response.Header.Get("Content-Type"), body); err != nil {
				t.Error(err)
			}
		}
		response, body := rawAccept(t, failing, r.method, r.path, r.body, "")
		if response.StatusCode == http.StatusOK {
			continue // this one asks no engine
		}
		if err := document.Fits(r.method, r.path, response.StatusCode, response.Header.Get("Content-Type"), body); err != nil {
			t.Error(err)
		}
	}
	operations := document.Operations()
	slices.Sort(operations)
	slices.Sort(asked)
	if asked = slices.Compact(asked); !slices.Equal(asked, operations) {
		t.Errorf("asked %q\nof %q", asked, operations)
	}
	if document.Fits("GET", "/v1/rules", 200, "application/json", []byte(`[{"name":"x"}]`)) == nil {
		t.Error("anything fits")
	}
}

func rawAccept(t *testing.T, socket, method, path, body, accept string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequest(method, "http://gardu"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	return roundTrip(t, socket, request)
}

// What is asked for must be something that the operation knows, once.
func TestParameters(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	for path, want := range map[string]string{
		"/v1/status?verbose=1":          `/v1/status has no parameter "verbose"; it has none`,
		"/v1/rules?filter=x":            `/v1/rules has no parameter "filter"; there are limit, after`,
		"/v1/rules?limit=1&limit=2":     "limit is given 2 times",
		"/v1/rules?limit=-1":            `the limit "-1" is not a number of rows`,
		"/v1/rules?a;b":                 "invalid semicolon separator",
		"/v1/rules?after=nobody":        `"nobody" is in the list no more`,
		"/v1/blocks?after=nobody":       "after=nobody is not where a page ended",
		"/v1/flows?after=x&sort=bytes":  "only flows sorted by src, dst or first have pages",
		"/v1/flows?after=x&sort=src":    "after=x is not where a page of flows ended",
		"/v1/flows?after=bnVsbA&sort=x": "can't be sorted",
	} {
		_, body := raw(t, socket, "GET", path, nil)
		var problem api.Problem
		if err := json.Unmarshal(body, &problem); err != nil || !strings.Contains(problem.Detail, want) {
			t.Errorf("%s: %s", path, body)
		}
	}
}

// A body that is no configuration and no list is small.
func TestSmallBodies(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	body := `{"packet":"` + strings.Repeat("x", 64<<10) + `"}`
	response, text := raw(t, socket, "POST", "/v1/explain", strings.NewReader(body))
	if response.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(text), "65536 bytes") {
		t.Errorf("%d: %s", response.StatusCode, text)
	}
}

// Pages, one after the other, are the whole list.
func TestPages(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	for _, path := range []string{"/v1/rules", "/v1/sets", "/v1/backends", "/v1/blocks", "/v1/revisions"} {
		_, body := raw(t, socket, "GET", path, nil)
		want := rowsOf[map[string]any](t, body)
		var got []map[string]any
		for next := path + "?limit=1"; next != ""; {
			response, body := raw(t, socket, "GET", next, nil)
			page := rowsOf[map[string]any](t, body)
			if len(page) != 1 {
				t.Fatalf("%s: %d rows", next, len(page))
			}
			got = append(got, page...)
			next = nextOf(response)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(want) < 2 {
			t.Errorf("%s: by pages\n%v\nat once\n%v", path, got, want)
		}
	}
}

func rowsOf[T any](t *testing.T, body []byte) (rows []T) {
	t.Helper()
	if err := json.Unmarshal(body, &rows); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return rows
}

// nextOf is where a Link says that the next page is; "" there is none.
func nextOf(response *http.Response) string {
	target, is := strings.CutSuffix(response.Header.Get("Link"), `>; rel="next"`)
	if !is {
		return ""
	}
	return strings.TrimPrefix(target, "<")
}

// Pages of flows hold each flow once, also those that are alike in what they are sorted by.
func TestPagesOfFlows(t *testing.T) {
	socket := serve(t, many{&apitest.Engine{}, 1000})
	for _, sort := range []string{"src", "dst", "first"} {
		seen := map[string]int{}
		pages := 0
		for next := "/v1/flows?limit=300&sort=" + sort; next != ""; pages++ {
			response, body := raw(t, socket, "GET", next, nil)
			for line := range strings.Lines(string(body)) {
				seen[line]++
			}
			next = nextOf(response)
		}
		if len(seen) != 1000 || pages != 4 {
			t.Errorf("by %s: %d flows in %d pages", sort, len(seen), pages)
		}
		for line, times := range seen {
			if times != 1 {
				t.Errorf("%d times %s", times, line)
			}
		}
	}
	if response, _ := raw(t, socket, "GET", "/v1/flows?limit=300&sort=bytes", nil); response.Header.Get("Link") != "" {
		t.Errorf("flows by bytes link to %s", response.Header.Get("Link"))
	}
}

// Browsers say which event was their last when they connect again.
func TestLastEventID(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	for _, ask := range []struct{ path, id string }{{"/v1/events", "x-1"}, {"/v1/events?after=x-1", ""}, {"/v1/events?after=other", "x-1"}} {
		request, err := http.NewRequest("GET", "http://gardu"+ask.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Last-Event-ID", ask.id)
		if _, body := roundTrip(t, socket, request); strings.Contains(string(body), `"id":"x-1"`) || !strings.Contains(string(body), `"kind":"log"`) {
			t.Errorf("%+v: %s", ask, body)
		}
	}
}

// Who asks for server-sent events gets them, and at the end the reason.
func TestServerSentEvents(t *testing.T) {
	response, body := rawAccept(t, serve(t, &apitest.Engine{}), "GET", "/v1/events?follow=true", "", "text/event-stream")
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	events := strings.Split(strings.TrimSuffix(string(body), "\n\n"), "\n\n")
	if last := events[len(events)-1]; len(events) < 3 || last != "event: end\ndata: {}" {
		t.Errorf("%d events, the last %q", len(events), last)
	}
	first, found := strings.CutPrefix(events[0], "id: x-1\n")
	if !found {
		t.Errorf("the first event has no id: %q", events[0])
	}
	events[0] = first
	for _, event := range events[:len(events)-1] {
		if text, is := strings.CutPrefix(event, "data: "); !is || !json.Valid([]byte(text)) {
			t.Errorf("event %q", event)
		}
	}
	_, body = rawAccept(t, serve(t, &apitest.Engine{FlowsFail: fmt.Errorf("table went away")}), "GET", "/v1/flows", "", "text/event-stream")
	if text := string(body); !strings.Contains(text, "\nevent: problem\ndata: {") || !strings.Contains(text, "table went away") {
		t.Errorf("a stream that breaks off: %s", text)
	}
}
