package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/api/client"
)

// Two operators can't overwrite each other's change: the tag that one read says what the other has changed meanwhile.
func TestIfMatch(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	for _, c := range []struct {
		method, path, header, value string
		want                        int
	}{
		{"PUT", "/v1/snapshot", "If-Match", `"7-abc"`, http.StatusOK},
		{"PUT", "/v1/snapshot", "If-Match", `"6-xyz", "7-abc"`, http.StatusOK},
		{"PUT", "/v1/snapshot", "If-Match", `*`, http.StatusOK},
		{"PUT", "/v1/snapshot", "If-Match", ``, http.StatusOK},
		{"PUT", "/v1/snapshot", "If-Match", `"6-xyz"`, http.StatusPreconditionFailed},
		{"PUT", "/v1/snapshot", "If-Match", `W/"7-abc"`, http.StatusPreconditionFailed},
		{"POST", "/v1/rollback", "If-Match", `"6-xyz"`, http.StatusPreconditionFailed},
		{"GET", "/v1/snapshot", "If-None-Match", `"7-abc"`, http.StatusNotModified},
		{"GET", "/v1/snapshot", "If-None-Match", `"6-xyz"`, http.StatusOK},
	} {
		request, err := http.NewRequest(c.method, "http://gardu"+c.path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set(c.header, c.value)
		response, body := roundTrip(t, socket, request)
		if response.StatusCode != c.want {
			t.Errorf("%s %s with %s %s: %d: %s", c.method, c.path, c.header, c.value, response.StatusCode, body)
		}
		var problem api.Problem
		if c.want == http.StatusPreconditionFailed && (json.Unmarshal(body, &problem) != nil || problem.Current == nil || problem.Current.Author != "anna") {
			t.Errorf("it doesn't say who: %s", body)
		}
	}
	response, _ := raw(t, socket, "GET", "/v1/snapshot", nil)
	if tag := response.Header.Get("ETag"); tag != `"7-abc"` {
		t.Errorf("ETag of what is in force: %s", tag)
	}
	if response, _ = raw(t, socket, "PUT", "/v1/snapshot", strings.NewReader("{}")); response.Header.Get("ETag") != `"8-def"` {
		t.Errorf("ETag of what was put in force: %s", response.Header.Get("ETag"))
	}
	c := client.New(socket)
	defer c.Close()
	now, err := c.Snapshot(t.Context())
	if err != nil || now.Tag != "7-abc" || now.YAML == "" {
		t.Errorf("%+v, %v", now, err)
	}
	if _, err := c.Apply(t.Context(), api.ApplyRequest{IfMatch: now.Tag}); err != nil {
		t.Error(err)
	}
	if _, err := c.Apply(t.Context(), api.ApplyRequest{IfMatch: "6-xyz"}); !strings.Contains(err.Error(), "by anna") {
		t.Error(err)
	}
}
