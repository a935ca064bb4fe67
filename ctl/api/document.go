package api

import (
	_ "embed" // the document
	"net/http"
)

// document describes the API (OpenAPI 3.1). It is made from the list of routes, the types and their comments, by the test that finds it
// out of date: go test ./ctl/api -run TestDocument -update
//
//go:embed openapi.json
var document []byte

// Document returns the description of the API, OpenAPI 3.1 as JSON.
func Document() []byte { return document }

func serveDocument(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	w.Write(document) // a client that has gone is no failure of ours
	return nil
}
