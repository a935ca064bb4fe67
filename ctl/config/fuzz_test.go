package config

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// FuzzParse makes sure that any bytes are either a complete snapshot or errors that name a place.
func FuzzParse(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name == "gardu.yaml" {
				f.Add(file.Data)
			}
		}
	}
	for _, seed := range []string{
		"", "\x00", "\xff\xfe", "\ufeffapi: {}", "a: &a [*a]", "filter: &f {<<: *f}", "filter: {<<: [{<<: {}}]}", "? ? ?", "{{{{", "!!map {}",
		"interfaces: {eth0: &e {path: tc}, eth1: *e}", "\u2028api:\u0085 {socket: 1}", "filter:\r  default: drop\r\n  rules: []", "%YAML 9.9\n---\n", "--- |\n x\n...\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		snapshot, warnings, err := Parse("gardu.yaml", data, "/nonexistent")
		for _, w := range warnings {
			checkPlace(t, data, w.Pos, w.String())
		}
		if err == nil {
			checkComplete(t, snapshot)
			return
		}
		var wrong Errors
		if !errors.As(err, &wrong) || len(wrong) == 0 {
			t.Fatalf("%T: %v", err, err)
		}
		for _, one := range wrong {
			checkPlace(t, data, one.Pos, one.Error())
		}
	})
}

// checkPlace makes sure that a position is in the file and its text can be shown on a terminal.
func checkPlace(t *testing.T, data []byte, pos model.Position, text string) {
	t.Helper()
	lines := regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]").Split(string(data), -1)
	switch {
	case pos.File != "gardu.yaml":
	case pos.Line < 1 || pos.Line > len(lines) || pos.Column < 1 || pos.Column > len(lines[pos.Line-1])+1:
		t.Errorf("%s: the place is not in the file", text)
	}
	if strings.ContainsAny(text, "\x00\x1b\r\x7f") || len(text) > 5000 {
		t.Errorf("%q cannot be shown", text)
	}
}

// checkComplete makes sure that a snapshot holds what others rely on.
func checkComplete(t *testing.T, s *model.Snapshot) {
	t.Helper()
	if s.Filter.Default == "" || s.API.Socket == "" || s.Flows.Max == 0 || s.Flows.Idle == 0 || s.Flows.Active == 0 {
		t.Errorf("a default is missing: %+v", s)
	}
	for _, set := range s.Sets {
		if set.Name == "" || (set.Kind == model.Addresses) != (set.Prefixes != nil) || (set.Kind == model.Ports) != (set.Ports != nil) || (set.Kind == model.Pairs) != (set.Pairs != nil) {
			t.Errorf("%+v", set)
		}
	}
	for _, r := range s.Filter.Rules {
		if r.Name == "" || r.Match == nil {
			t.Errorf("%+v", r)
		}
		for _, c := range r.Match {
			kinds := 0
			for _, is := range []bool{c.Prefixes != nil, c.Ranges != nil, c.Set != ""} {
				if is {
					kinds++
				}
			}
			if _, ok := rule.Lookup(c.Field); !ok || kinds != 1 {
				t.Errorf("%+v", c)
			}
		}
	}
	for _, service := range s.Services {
		if !located(service) || service.Name == "" || service.Forward == "" || service.Affinity == "" || len(service.Backends) == 0 {
			t.Errorf("%+v", service)
		}
		for _, backend := range service.Backends {
			if backend.Name == "" || !backend.Address.IsValid() {
				t.Errorf("%+v", backend)
			}
		}
	}
}
