package page

import (
	"bytes"
	"embed"
	"net/http"
	"time"
)

//go:embed index.html page.css page.js
var files embed.FS

// types are the files by the path at which they are served.
var types = map[string]struct{ file, contentType string }{
	"/":         {"index.html", "text/html; charset=utf-8"},
	"/page.css": {"page.css", "text/css; charset=utf-8"},
	"/page.js":  {"page.js", "text/javascript; charset=utf-8"},
}

// policy lets the page load its own files and ask its own server, and nothing else; nobody may show it inside of another page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

// Register has mux serve the page.
func Register(mux *http.ServeMux) {
	for path, of := range types {
		content, err := files.ReadFile(of.file)
		if err != nil {
			panic(err) // it is embedded
		}
		pattern := "GET " + path
		if path == "/" {
			pattern = "GET /{$}"
		}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			header := w.Header()
			header.Set("Content-Type", of.contentType)
			header.Set("Content-Security-Policy", policy)
			header.Set("X-Content-Type-Options", "nosniff")
			header.Set("Referrer-Policy", "no-referrer")
			header.Set("Cache-Control", "no-cache") // another version may be served tomorrow
			http.ServeContent(w, r, of.file, time.Time{}, bytes.NewReader(content))
		})
	}
}
