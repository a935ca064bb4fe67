package config

import (
	"encoding/json"

	"gardu/ctl/rule"
)

// schema is a part of a JSON schema.
type schema map[string]any

// Schema returns the JSON schema (draft 2020-12) of a configuration, for editors. It is made from the table that the
// decoder uses; what only a look at the whole can tell (absent sets, overlapping services) is left to `gardu check`.
func Schema() []byte {
	s := root.schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "gardu configuration"
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // cannot happen: only maps, slices, strings, numbers and booleans
	}
	return append(text, '\n')
}

func (o object[T]) schema() schema {
	properties := schema{}
	var required []string
	for _, k := range o.keys {
		property := schema{"description": k.help}
		for name, value := range k.schema {
			property[name] = value
		}
		if k.absent != nil && !isNull(k.absent) {
			property["default"] = defaultValue(k.absent.Value)
		}
		properties[k.name] = property
		if k.required {
			required = append(required, k.name)
		}
	}
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	} else {
		s["type"] = []string{"object", "null"}
	}
	return s
}

// defaultValue makes a number or boolean of a default that is written like one.
func defaultValue(word string) any {
	if json.Valid([]byte(word)) {
		return json.RawMessage(word)
	}
	return word
}

func matchSchema() schema {
	properties := schema{}
	for _, field := range rule.Fields {
		property := oneOrMore(schema{"type": "string"})
		if field.Kind == rule.Number {
			property = oneOrMore(schema{"anyOf": []schema{{"type": "integer", "minimum": 0, "maximum": field.Max}, {"type": "string"}}})
		}
		if field.Words {
			property = oneOrMore(schema{"enum": field.WordList()})
		}
		property["description"] = field.Help + ": " + field.Allowed()
		properties[string(field.Name)] = property
		properties["not-"+string(field.Name)] = property
	}
	return schema{"type": "object", "properties": properties, "additionalProperties": false}
}
