package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

var update = flag.Bool("update", false, "write openapi.json")

// TestDocument holds openapi.json against the routes and types, and has a library of others find it valid.
func TestDocument(t *testing.T) {
	text := describe(t)
	if *update {
		if err := os.WriteFile("openapi.json", text, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(text) != string(Document()) {
		t.Error("openapi.json is not that of the routes and types: go test ./ctl/api -run TestDocument -update")
	}
	loaded, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Validate(t.Context()); err != nil {
		t.Error(err)
	}
}

type object = map[string]any

// describer makes an OpenAPI document.
type describer struct {
	t        *testing.T
	comments map[string]string // of types by TYPE, of fields by TYPE.FIELD
	schemas  object
}

func describe(t *testing.T) []byte {
	d := &describer{t, map[string]string{}, object{}}
	d.read(".")
	d.read("../model")
	paths := object{}
	for _, r := range (&handler{engine: nowhere{}}).routes() {
		methods, _ := paths[r.path].(object)
		if methods == nil {
			methods = object{}
			paths[r.path] = methods
		}
		methods[strings.ToLower(r.method)] = d.operation(r)
	}
	d.schema(reflect.TypeFor[Problem]())
	document := object{
		"openapi": "3.1.0",
		"info": object{
			"title":   "gardu",
			"version": "v1",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "What the commands of gardu do, over a Unix socket and, where the configuration says so, TCP. Every error is a Problem " +
				"(RFC 9457). Times are RFC 3339, durations are seconds, sizes are bytes, counters are plain numbers that only ever grow.",
		},
		"servers": []object{{"url": "http://gardu", "description": "the Unix socket /run/gardu/gardu.sock; the host is ignored there"}, {"url": "http://127.0.0.1:9180", "description": "api.listen"}},
		"paths":   paths,
		"components": object{"schemas": d.schemas, "securitySchemes": object{"token": object{"type": "http", "scheme": "bearer",
			"description": "by TCP; the Unix socket knows who asks. Each scope includes those before it: read, operate, configure"}}},
	}
	text, err := json.MarshalIndent(document, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

// nowhere is an engine of which only the types of the methods matter.
type nowhere struct{ Engine }

func (d *describer) operation(r route) object {
	content := object{"application/json": object{"schema": d.schema(r.answers)}}
	if r.lines {
		line := d.schema(r.answers)
		if r.orAnswers != nil {
			line = object{"anyOf": []object{line, d.schema(r.orAnswers)}}
		}
		content = object{
			"application/x-ndjson": object{"schema": object{"type": "string", "description": "one value a line; the trailer " + ProblemTrailer +
				" has a Problem when it ends before its time", "contentMediaType": "application/json", "contentSchema": line}},
			"text/event-stream": object{"schema": object{"type": "string", "description": "one value an event; the last is of type end or problem",
				"contentMediaType": "application/json", "contentSchema": line}},
		}
	}
	operation := object{
		"operationId": operationID(r),
		"summary":     r.does,
		"tags":        []string{string(r.scope)},
		"responses": object{
			"200":     object{"description": "done", "content": content},
			"default": object{"description": "why not", "content": object{"application/problem+json": object{"schema": d.schema(reflect.TypeFor[Problem]())}}},
		},
	}
	operation["security"] = []object{{"token": []Scope{r.scope}}}
	switch r.scope {
	case ScopePublic:
		operation["security"] = []object{{}, {"token": []Scope{ScopeRead}}}
	case ScopeSocket:
		operation["security"] = []object{{}}
		operation["description"] = "By the Unix socket alone."
	}
	if r.path == "/v1/snapshot" || r.path == "/v1/rollback" {
		operation["parameters"] = []object{conditions[r.method]}
		if r.method == "GET" {
			operation["responses"].(object)["304"] = object{"description": "not changed"}
		}
	}
	if r.takes != nil {
		operation["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.schema(r.takes)}}}
	}
	var parameters []object
	for _, p := range r.params {
		schema := object{"type": p.kind}
		if p.kind == "date-time" {
			schema = object{"type": "string", "format": p.kind}
		}
		if p.words != nil {
			schema["enum"] = slices.Compact(slices.Sorted(slices.Values(p.words)))
		}
		if p.many {
			schema = object{"type": "array", "items": schema}
		}
		parameter := object{"name": p.name, "in": "query", "required": p.required, "schema": schema}
		if p.help != "" {
			parameter["description"] = p.help
		}
		parameters = append(parameters, parameter)
	}
	if parameters != nil {
		operation["parameters"] = parameters
	}
	return operation
}

// conditions are the headers of requests about the configuration.
var conditions = map[string]object{
	"GET":  {"name": "If-None-Match", "in": "header", "schema": object{"type": "string"}, "description": "an ETag: 304 if nothing has changed since"},
	"PUT":  {"name": "If-Match", "in": "header", "schema": object{"type": "string"}, "description": "an ETag: 412 if something else is in force"},
	"POST": {"name": "If-Match", "in": "header", "schema": object{"type": "string"}, "description": "likewise"},
}

// operationID is getFlows, deleteBlocks, ...
func operationID(r route) string {
	name := strings.TrimSuffix(strings.TrimPrefix(r.path, "/v1/"), ".json")
	return strings.ToLower(r.method) + strings.ToUpper(name[:1]) + name[1:]
}

// travels are types that are written in a way of their own.
var travels = map[reflect.Type]object{
	reflect.TypeFor[Duration]():       {"type": "number", "description": "seconds"},
	reflect.TypeFor[Hex]():            {"type": "string", "pattern": "^([0-9a-fA-F]{2})*$"},
	reflect.TypeFor[netip.Addr]():     {"type": "string", "description": "an IPv4 or IPv6 address"},
	reflect.TypeFor[netip.Prefix]():   {"type": "string", "description": "an address prefix such as 198.51.100.0/24"},
	reflect.TypeFor[time.Time]():      {"type": "string", "format": "date-time"},
	reflect.TypeFor[map[string]any](): {"type": "object"},
	reflect.TypeFor[struct{}]():       {"type": "object", "additionalProperties": false},
	reflect.TypeFor[Scope]():          {"type": "string", "enum": Scopes()},
}

func (d *describer) schema(t reflect.Type) object {
	if schema := travels[t]; schema != nil {
		return maps.Clone(schema)
	}
	if t == reflect.TypeFor[blockEntry]() {
		t = reflect.TypeFor[BlockRequest]()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Struct:
		return d.component(t)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	}
	d.t.Fatalf("%s can't be described", t)
	return nil
}

// component describes a struct once, and points there.
func (d *describer) component(t reflect.Type) object {
	pointer := object{"$ref": "#/components/schemas/" + t.Name()}
	if d.schemas[t.Name()] != nil {
		return pointer
	}
	schema := object{}
	d.schemas[t.Name()] = schema
	properties, required := object{}, []string{}
	d.fields(t, false, properties, &required)
	schema["type"], schema["properties"], schema["additionalProperties"] = "object", properties, false
	if len(required) > 0 {
		schema["required"] = required
	}
	if comment := d.comments[t.Name()]; comment != "" {
		schema["description"] = comment
	}
	return pointer
}

// fields adds those of a struct, and of structs embedded in it.
func (d *describer) fields(t reflect.Type, perhaps bool, properties object, required *[]string) {
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if field.Anonymous && name == "" {
			embedded, maybe := field.Type, perhaps
			if embedded.Kind() == reflect.Pointer {
				embedded, maybe = embedded.Elem(), true
			}
			d.fields(embedded, maybe, properties, required)
			continue
		}
		if name == "" {
			d.t.Errorf("%s.%s has no name in JSON", t, field.Name)
		}
		schema := d.schema(field.Type)
		if field.Type.Kind() == reflect.Pointer && options == "" {
			schema = object{"anyOf": []object{schema, {"type": "null"}}}
		}
		if comment := d.comments[t.Name()+"."+field.Name]; comment != "" {
			schema["description"] = comment
		}
		properties[name] = schema
		if options == "" && !perhaps && !optional[t.Name()+"."+name] {
			*required = append(*required, name)
		}
	}
}

// optional are members of requests that may be left out, and are written all the same by who sends their zero value.
var optional = map[string]bool{"ApplyRequest.name": true, "PlanRequest.name": true, "WeightRequest.weight": true}

// read collects the comments of a package's types.
func (d *describer) read(dir string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			d.t.Fatal(err)
		}
		for _, decl := range file.Decls {
			types, ok := decl.(*ast.GenDecl)
			if !ok || types.Tok != token.TYPE {
				continue
			}
			for _, spec := range types.Specs {
				named := spec.(*ast.TypeSpec)
				if text, ok := named.Type.(*ast.StructType); ok {
					d.comments[named.Name.Name] = comment(types.Doc, named.Doc)
					for _, field := range text.Fields.List {
						for _, name := range field.Names {
							d.comments[named.Name.Name+"."+name.Name] = comment(field.Comment, field.Doc)
						}
					}
				}
			}
		}
	}
}

var space = regexp.MustCompile(`\s+`)

// comment is the first that there is, in one line.
func comment(groups ...*ast.CommentGroup) string {
	for _, group := range groups {
		if group != nil {
			return strings.TrimSpace(space.ReplaceAllString(group.Text(), " "))
		}
	}
	return ""
}

// Every operation has a name of its own, and every route one.
func TestOperationsAreNamed(t *testing.T) {
	seen := map[string]string{}
	for _, r := range (&handler{engine: nowhere{}}).routes() {
		id := operationID(r)
		if other := seen[id]; other != "" {
			t.Errorf("%s is %s and %s %s", id, other, r.method, r.path)
		}
		seen[id] = fmt.Sprint(r.method, " ", r.path)
	}
}
