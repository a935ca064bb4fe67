package client_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/api/client"
)

// Everything that the API does can be asked for by a method, and no method asks for anything else.
func TestClientIsComplete(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "gardu.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var mu sync.Mutex
	asked := map[string]bool{}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Method+" "+r.URL.Path] = true
		w.Write([]byte("null"))
	}))
	c := client.New(socket)
	defer c.Close()
	methods := reflect.ValueOf(c)
	for method := range methods.Type().Methods() {
		if method.Name == "Close" {
			continue
		}
		call := methods.MethodByName(method.Name)
		args := []reflect.Value{reflect.ValueOf(t.Context())}
		for i := 1; i < call.Type().NumIn(); i++ {
			args = append(args, nothing(call.Type().In(i)))
		}
		call.Call(args) // whether it likes the answer doesn't matter
	}
	document, err := apitest.LoadDocument()
	if err != nil {
		t.Fatal(err)
	}
	operations := document.Operations()
	mu.Lock()
	defer mu.Unlock()
	for _, operation := range operations {
		if !asked[operation] && operation != "GET /v1/openapi.json" {
			t.Errorf("no method asks for %s", operation)
		}
	}
	for operation := range asked {
		if !slices.Contains(operations, operation) {
			t.Errorf("%s is asked for, which isn't in the document", operation)
		}
	}
}

// nothing is a zero value, or a function that does nothing.
func nothing(t reflect.Type) reflect.Value {
	if t.Kind() != reflect.Func {
		return reflect.Zero(t)
	}
	return reflect.MakeFunc(t, func([]reflect.Value) []reflect.Value {
		var results []reflect.Value
		for out := range t.Outs() {
			results = append(results, reflect.Zero(out))
		}
		return results
	})
}

// The token goes to the daemon and to nobody whom that names.
func TestTokenStays(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	shown := make(chan string, 10)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown <- r.Header.Get("Authorization")
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	c, err := client.NewTCP(client.TCP{URL: "http://" + listener.Addr().String(), Token: "gardu_x"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Status(context.Background()); err == nil {
		t.Error("a redirection is an answer")
	}
	if got := <-shown; got != "Bearer gardu_x" || len(shown) > 0 {
		t.Errorf("shown %q, and %d more", got, len(shown))
	}
	for _, url := range []string{"gardu.example:9180", "https://", "ftp://gardu.example", "https://a@gardu.example", "https://gardu.example/v1", "http://192.0.2.1:9180", "https://gardu.example?x"} {
		if _, err := client.NewTCP(client.TCP{URL: url}); err == nil {
			t.Errorf("%s is taken", url)
		}
	}
}

// A list comes row by row, and one that was cut off is none.
func TestLongList(t *testing.T) {
	const whole = `[{"prefix":"192.0.2.1/32"},{"prefix":"192.0.2.2/32"}]`
	for _, tc := range []struct {
		text string
		rows int
		fine bool
	}{{whole, 2, true}, {"[]", 0, true}, {whole[:len(whole)-1], 2, false}, {whole[:30], 1, false}, {"", 0, false}} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, tc.text) }))
		c, err := client.NewTCP(client.TCP{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		rows := 0
		err = c.EachBlock(t.Context(), func(api.Block) error { rows++; return nil })
		if rows != tc.rows || (err == nil) != tc.fine {
			t.Errorf("%q: %d rows, error %v", tc.text, rows, err)
		}
		server.Close()
	}
}
