package page

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestServed(t *testing.T) {
	mux := http.NewServeMux()
	Register(mux)
	for path, want := range map[string]string{"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/page": "", "/index.html": "", "/doc.go": ""} {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
		header := answer.Header()
		if want == "" {
			if answer.Code != http.StatusNotFound {
				t.Errorf("%s: %d", path, answer.Code)
			}
			continue
		}
		if answer.Code != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), want) || header.Get("Content-Security-Policy") != policy || answer.Body.Len() == 0 {
			t.Errorf("%s: %d %v", path, answer.Code, header)
		}
	}
}

// TestTextStaysText: nothing that the daemon tells is taken for HTML or for a script.
func TestTextStaysText(t *testing.T) {
	for _, name := range []string{"index.html", "page.js"} {
		text, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick", "style="} {
			if strings.Contains(string(text), way) {
				t.Errorf("%s: %s", name, way)
			}
		}
	}
}
