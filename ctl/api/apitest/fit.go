package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"gardu/ctl/api"
)

// Document is the document of the API as a library of others understands it.
type Document struct{ *openapi3.T }

// LoadDocument reads it.
func LoadDocument() (Document, error) {
	loaded, err := openapi3.NewLoader().LoadFromData(api.Document())
	return Document{loaded}, err
}

// Operations are all of them, as "GET /v1/status".
func (d Document) Operations() (all []string) {
	for path, item := range d.Paths.Map() {
		for method := range item.Operations() {
			all = append(all, method+" "+path)
		}
	}
	return all
}

// Fits tells whether an answer is one that the document promises.
func (d Document) Fits(method, path string, status int, contentType string, body []byte) error {
	path, _, _ = strings.Cut(path, "?")
	item := d.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		return fmt.Errorf("the document has no %s %s", method, path)
	}
	operation := item.GetOperation(method)
	response := operation.Responses.Status(status)
	if response == nil {
		response = operation.Responses.Default()
	}
	content := response.Value.Content[contentType]
	if content == nil {
		return fmt.Errorf("%s %s: %d with %q is not in the document: %s", method, path, status, contentType, body)
	}
	schema := content.Schema.Value
	if schema.ContentSchema == nil {
		return fits(schema, body)
	}
	for line := range bytes.Lines(body) {
		if contentType == "text/event-stream" {
			data, is := bytes.CutPrefix(line, []byte("data: "))
			if !is || string(data) == "{}\n" { // that of the end
				continue
			}
			line = data
		}
		if err := fits(schema.ContentSchema.Value, line); err != nil {
			return err
		}
	}
	return nil
}

func fits(schema *openapi3.Schema, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	if err := schema.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
		return fmt.Errorf("%w\n%.2000s", err, text)
	}
	return nil
}
