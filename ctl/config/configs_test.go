package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"gardu/ctl/lb"
	"gardu/ctl/rule"
)

const configs = "../../configs"

func TestShippedConfigurationsAreRight(t *testing.T) {
	paths := []string{configs + "/reference.yaml", configs + "/minimal.yaml"}
	examples, err := filepath.Glob(configs + "/examples/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, path := range append(paths, examples...) {
		snapshot, warnings, err := Load(path)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, w := range warnings {
			t.Error(w)
		}
		if len(snapshot.Interfaces) == 0 {
			t.Errorf("%s has no interface", path)
		}
	}
}

// TestReferenceIsComplete finds every key of the decoder's table, every field, and every mode in reference.yaml, and at
// each key with a default a comment that states it.
func TestReferenceIsComplete(t *testing.T) {
	text, err := os.ReadFile(configs + "/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	checkKeys(t, lines, "", []*yaml.Node{doc.Content[0]}, parseSchema(t))

	for _, field := range rule.Fields {
		if !regexp.MustCompile(`(?m)^ {8}(not-)?` + string(field.Name) + `: `).Match(text) {
			t.Errorf("the field %s is absent", field.Name)
		}
		for _, name := range field.Names {
			if field.Name == "proto" && !strings.Contains(string(text), " "+name.Text) {
				t.Errorf("the protocol %s is absent", name.Text)
			}
		}
	}
	for _, mode := range lb.Modes() {
		if !strings.Contains(string(text), "#   "+string(mode.Name)+" ") {
			t.Errorf("the mode %s is not explained", mode.Name)
		}
	}
}

// parsedSchema is what TestReferenceIsComplete needs of a JSON schema.
type parsedSchema struct {
	Properties           map[string]parsedSchema
	AdditionalProperties json.RawMessage
	Items                *parsedSchema
	Default              any
}

func parseSchema(t *testing.T) parsedSchema {
	t.Helper()
	var s parsedSchema
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// checkKeys looks for each property in at least one of the mappings.
func checkKeys(t *testing.T, lines []string, path string, mappings []*yaml.Node, s parsedSchema) {
	t.Helper()
	if path == ".filter.rules.match" {
		return // its keys are fields
	}
	for name, property := range s.Properties {
		var values []*yaml.Node
		stated := property.Default == nil
		for _, mapping := range mappings {
			for i := 0; i+1 < len(mapping.Content); i += 2 {
				if key := mapping.Content[i]; key.Value == name {
					values = append(values, below(mapping.Content[i+1], property)...)
					want := "default " + strings.Trim(mustJSON(t, property.Default), `"`)
					stated = stated || strings.HasSuffix(lines[key.Line-1], want)
				}
			}
		}
		switch {
		case values == nil:
			t.Errorf("the key %s.%s is absent", path, name)
			continue
		case !stated:
			t.Errorf("no comment at %s.%s ends with its default %v", path, name, property.Default)
		}
		checkKeys(t, lines, path+"."+name, values, item(t, property))
	}
}

// below returns the objects that a value holds: the items of a list, the values of a mapping from names, or itself.
func below(value *yaml.Node, s parsedSchema) []*yaml.Node {
	switch {
	case s.Items != nil:
		return value.Content
	case len(s.AdditionalProperties) > 0 && s.Properties == nil:
		var values []*yaml.Node
		for i := 1; i < len(value.Content); i += 2 {
			values = append(values, value.Content[i])
		}
		return values
	}
	return []*yaml.Node{value}
}

// item returns the schema of what below returns.
func item(t *testing.T, s parsedSchema) parsedSchema {
	t.Helper()
	if s.Items != nil {
		return *s.Items
	}
	if len(s.AdditionalProperties) > 0 && s.Properties == nil {
		var each parsedSchema
		if err := json.Unmarshal(s.AdditionalProperties, &each); err != nil {
			t.Fatal(err)
		}
		return each
	}
	return s
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSchemaIsCommitted compares configs/schema.json with what the table says now; -update writes it.
func TestSchemaIsCommitted(t *testing.T) {
	path := configs + "/schema.json"
	if *update {
		if err := os.WriteFile(path, Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Schema()) {
		t.Error("configs/schema.json is out of date; go test ./ctl/config -run Schema -update")
	}
}
