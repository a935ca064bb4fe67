package api

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// route is one method of one path. What serves it, who may ask, and the document of the API come from it.
type route struct {
	method, path string
	does         string // in a line
	scope        Scope
	endpoint
}

// endpoint serves, and says what it takes and answers.
type endpoint struct {
	serve   func(http.ResponseWriter, *http.Request) error
	params  []param
	takes   reflect.Type // as JSON; nil: no body
	large   bool         // that may be as large as MaxRequest
	answers reflect.Type

	orAnswers reflect.Type // another thing that it may answer; nil: none
	lines     bool         // answers values as they come: see stream
}

// param is a parameter in the query of a URL.
type param struct {
	name, help string
	kind       string   // string, integer, boolean
	words      []string // values that it can have; nil: any
	required   bool
	many       bool // may be given many times
}

// routes is everything that the API does.
func (h *handler) routes() []route {
	e := h.engine
	return []route{
		{"GET", "/v1/status", "The state of the whole", ScopePublic, reader(h.status)},
		{"GET", "/v1/rules", "The rules in the order in which they are tried", ScopePublic, pages(e.Rules, named(func(r *Rule) string { return r.Name }))},
		{"GET", "/v1/sets", "The sets", ScopePublic, pages(e.Sets, named(func(s *Set) string { return s.Name }))},
		{"GET", "/v1/services", "The services", ScopePublic, pages(e.Services, named(func(s *Service) string { return s.Name }))},
		{"GET", "/v1/backends", "The backends of all services, a service after the other", ScopePublic,
			pages(e.Backends, named(func(b *Backend) string { return b.Service + "/" + b.Name }))},
		{"GET", "/v1/blocks", "The blocks, by prefix", ScopePublic, pages(e.Blocks, byPrefix)},
		{"POST", "/v1/blocks", "Add or renew blocks, all or none: Problem.entries says which are wrong", ScopeOperate, large(writer(h.block))},
		{"DELETE", "/v1/blocks", "Remove blocks of exactly these prefixes", ScopeOperate,
			asker(h.unblock, param{name: "prefix", help: "an address prefix", kind: "string", required: true, many: true})},
		{"POST", "/v1/drains", "Send new flows of a backend elsewhere", ScopeOperate, writer(h.drain)},
		{"DELETE", "/v1/drains", "Take a drain back", ScopeOperate, asker(h.undrain,
			param{name: "service", kind: "string", required: true}, param{name: "backend", kind: "string", required: true})},
		{"PUT", "/v1/weights", "Give a backend another weight until the next such request", ScopeOperate, writer(h.weigh)},
		{"GET", "/v1/flows", "Flows, both directions joined, or what groups of them add up to", ScopePublic, h.flows()},
		{"GET", "/v1/top", "What flows do at this moment, a sample every so often", ScopePublic, h.top()},
		{"GET", "/v1/history", "What flows did in a time that may be long past", ScopePublic, h.history()},
		{"GET", "/v1/events", "What happened: to packets that rules log, sample or drop, and to gardu", ScopePublic, h.events()},
		{"POST", "/v1/capture", "Packets and what became of them, as they are handled", ScopeOperate, h.capture()},
		{"DELETE", "/v1/capture", "End a capture; what is on its way still arrives", ScopeOperate,
			asker(h.endCapture, param{name: "name", help: "what the capture's first line said", kind: "string", required: true})},
		{"GET", "/v1/snapshot", "The configuration in force; its ETag is for If-Match", ScopeRead, reader(h.snapshot)},
		{"PUT", "/v1/snapshot", "Replace the configuration, all or nothing", ScopeConfigure, large(writer(h.apply))},
		{"POST", "/v1/plan", "What a configuration would change; nothing is", ScopeConfigure, large(writer(h.plan))},
		{"POST", "/v1/confirm", "Keep the configuration that waits for it", ScopeConfigure, writer(e.Confirm)},
		{"POST", "/v1/rollback", "Put an older configuration in force again", ScopeConfigure, writer(h.rollback)},
		{"GET", "/v1/revisions", "The configurations that are kept, the newest first, without their texts", ScopePublic, pages(e.Revisions, byRevision)},
		{"GET", "/v1/revision", "One of them with its text", ScopeRead,
			asker(h.revision, param{name: "number", kind: "integer", required: true})},
		{"POST", "/v1/explain", "What would become of one packet; nothing does", ScopeRead, writer(h.explain)},
		{"GET", "/v1/tokens", "The tokens for TCP, without their secrets", ScopeSocket,
			pages(e.Tokens, ordered(func(t *Token) string { return t.Name }, parseName, func(t *Token, end string) bool { return t.Name > end }))},
		{"POST", "/v1/tokens", "Make a token; its secret is told this once", ScopeSocket, writer(h.createToken)},
		{"DELETE", "/v1/tokens", "Make a token worthless, at once", ScopeSocket, asker(h.revokeToken, param{name: "name", kind: "string", required: true})},
		{"GET", "/v1/loglevel", "How much is written to the log", ScopePublic, reader(e.LogLevel)},
		{"PUT", "/v1/loglevel", "Write more or less to the log, for a while or until the daemon ends", ScopeOperate, writer(h.setLogLevel)},
		{"GET", "/v1/openapi.json", "This document", ScopePublic, endpoint{serve: serveDocument, answers: reflect.TypeFor[map[string]any]()}},
	}
}

// mux serves the routes.
func (h *handler) mux() *http.ServeMux {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, r := range h.routes() {
		mux.HandleFunc(r.method+" "+r.path, h.guard(h.audited(r, r.check(r.serve))))
		methods[r.path] = append(methods[r.path], r.method)
	}
	for path, methods := range methods {
		mux.HandleFunc(path, h.guard(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			return NewProblem(CodeMethod, "%s takes %s, not %s", path, strings.Join(methods, " and "), r.Method)
		}))
	}
	mux.HandleFunc("/", h.guard(func(_ http.ResponseWriter, r *http.Request) error {
		return NewProblem(CodeNotFound, "there is no %s in this API", r.URL.Path)
	}))
	return mux
}

// maxSmall is the largest body of a request that isn't a configuration or a list.
const maxSmall = 64 << 10

// audited lets those ask who may, and logs who asked for a change and what came of it.
func (h *handler) audited(route route, serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		who := callerOf(r.Context())
		err := who.may(w, route.scope)
		if err == nil {
			err = serve(w, r)
		}
		if route.scope.Allows(ScopeOperate) {
			outcome, level := "done", slog.LevelInfo
			if err != nil {
				outcome = string(problemOf(err).Code)
			}
			if who.scope == "" || who.scope == ScopePublic {
				level = slog.LevelDebug // anybody can ask in vain
			}
			h.log.Log(r.Context(), level, "asked by API", append([]any{"method", route.method, "path", route.path, "outcome", outcome}, who.attributes()...)...)
		}
		return err
	}
}

// check holds a request against what the route says of it.
func (e endpoint) check(serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		most := int64(maxSmall)
		if e.large {
			most = MaxRequest
		}
		if r.ContentLength > most {
			return tooLarge(most)
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return NewProblem(CodeInvalid, "the query %q: %v", r.URL.RawQuery, err)
		}
		for _, name := range slices.Sorted(maps.Keys(query)) {
			i := slices.IndexFunc(e.params, func(p param) bool { return p.name == name })
			if i < 0 {
				return NewProblem(CodeInvalid, "%s has no parameter %q; %s", r.URL.Path, name, e.paramText())
			}
			if !e.params[i].many && len(query[name]) > 1 {
				return NewProblem(CodeInvalid, "%s is given %d times", name, len(query[name]))
			}
		}
		return serve(w, r)
	}
}

func (e endpoint) paramText() string {
	var names []string
	for _, p := range e.params {
		names = append(names, p.name)
	}
	if names == nil {
		return "it has none"
	}
	return "there are " + strings.Join(names, ", ")
}

// reader answers with what get returns.
func reader[T any](get func(context.Context) (T, error)) endpoint {
	return endpoint{answers: reflect.TypeFor[T](), serve: func(w http.ResponseWriter, r *http.Request) error {
		value, err := get(r.Context())
		if err == nil && unchanged(w, r, value) {
			return nil
		}
		return reply(w, value, err)
	}}
}

// asker answers with what get returns for the parameters of the query.
func asker[T any](get func(context.Context, url.Values) (T, error), params ...param) endpoint {
	return endpoint{params: params, answers: reflect.TypeFor[T](), serve: func(w http.ResponseWriter, r *http.Request) error {
		value, err := get(r.Context(), r.URL.Query())
		return reply(w, value, err)
	}}
}

// writer hands the request's body to do and answers with what it returns.
func writer[In, Out any](do func(context.Context, In) (Out, error)) endpoint {
	return endpoint{takes: reflect.TypeFor[In](), answers: reflect.TypeFor[Out](), serve: func(w http.ResponseWriter, r *http.Request) error {
		var in In
		if err := decode(w, r, &in); err != nil {
			return err
		}
		if c, ok := any(&in).(conditional); ok {
			c.setIfMatch(strings.Join(r.Header.Values("If-Match"), ","))
		}
		out, err := do(r.Context(), in)
		if err == nil {
			unchanged(w, r, out) // a change never is: this sets its tag
		}
		return reply(w, out, err)
	}}
}

// large takes bodies of up to MaxRequest.
func large(e endpoint) endpoint {
	e.large = true
	return e
}

// Parameters that several endpoints have.
var (
	filterParam = param{name: "filter", help: "an expression such as `dport 443 and src in 198.51.100.0/24`: see `gardu help expr`", kind: "string"}
	groupParam  = param{name: "group", help: "keys to add up by, such as `src/24,dport`", kind: "string"}
	limitParam  = param{name: "limit", help: "the first so many; 0: all", kind: "integer"}
	afterParam  = param{name: "after", help: "where the page before this one ended, from its Link", kind: "string"}
)

func sortParam(words []string) param {
	return param{name: "sort", help: "amounts and times from high to low, addresses upwards", kind: "string", words: words}
}

func parseName(text string) (string, error) { return text, nil }

// parseLimit reads the number of things that a client wants.
func parseLimit(text, things string) (int, error) {
	if text == "" {
		return 0, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 0 {
		return 0, NewProblem(CodeInvalid, "the limit %q is not a number of %s", text, things)
	}
	return limit, nil
}
