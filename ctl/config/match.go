package config

import (
	"strings"

	"gardu/ctl/model"
	"gardu/ctl/rule"
	"gardu/ctl/yaml"
)

// laterFields are keys of `match` that this version lacks.
var laterFields = []string{"mark"}

// match is the condition of a rule: the rows of rule.Fields as keys, each also with not- before it.
var match = kind[[]model.Condition]{matchSchema(), func(d *decoder, n, owner *yaml.Node) ([]model.Condition, bool) {
	n, ok := d.enterWith(n, owner, yaml.MappingNode, func() string {
		return "{} for every packet, or the keys " + strings.Join(fieldNames(), ", ")
	})
	if !ok {
		return nil, false
	}
	pairs := d.pairs(n)
	conditions := make([]model.Condition, 0, len(pairs))
	for _, p := range pairs {
		field, negated, known := rule.ParseKey(p.key.Value)
		if !known {
			d.unknownField(p.key, fieldNames())
			ok = false
			continue
		}
		c, valuesOK := d.condition(field, p)
		c.Not = negated
		conditions = append(conditions, c)
		ok = ok && valuesOK
	}
	return conditions, ok
}}

// unknownField reports a key of match.
func (d *decoder) unknownField(key *yaml.Node, names []string) {
	bare := *key
	bare.Value = strings.TrimPrefix(key.Value, "not-")
	d.unknown(&bare, "field", " in match", names, laterFields)
}

// condition reads the value, or the list of values, of one key of match.
func (d *decoder) condition(field rule.FieldInfo, p pair) (model.Condition, bool) {
	value := resolve(p.value)
	c := model.Condition{Field: field.Name, Pos: d.at(value)}
	if value.Kind != yaml.SequenceNode {
		return c, d.addValue(field, &c, p.value, p.key)
	}
	list, ok := d.enterWith(value, p.key, yaml.SequenceNode, field.Allowed)
	if !ok {
		return c, false
	}
	if len(list.Content) == 0 {
		d.fail(c.Pos, field.Allowed(), "the list is empty")
		return c, false
	}
	allOK := true
	for _, n := range list.Content {
		allOK = d.addValue(field, &c, n, p.key) && allOK
	}
	return c, allOK
}

func (d *decoder) addValue(field rule.FieldInfo, c *model.Condition, n, owner *yaml.Node) bool {
	word, ok := d.wordWith(n, owner, field.Allowed)
	if !ok {
		return false
	}
	if err := field.Add(c, word); err != nil {
		d.fail(d.at(resolve(n)), field.Allowed(), "%s%s", err, didYouMean(word, field.WordList()))
		return false
	}
	if field.Kind == rule.Address && c.Set == "" {
		d.warnHostBits(n, word, c.Prefixes[len(c.Prefixes)-1])
	}
	return true
}

func fieldNames() []string {
	names := make([]string, len(rule.Fields))
	for i, field := range rule.Fields {
		names[i] = string(field.Name)
	}
	return names
}

// allow is filter.allow: @SET, or prefixes for a set of its own.
var allow = kind[model.Condition]{oneOrMore(schema{"type": "string"}), func(d *decoder, n, owner *yaml.Node) (model.Condition, bool) {
	sources, _ := rule.Lookup("src")
	return d.condition(sources, pair{owner, n})
}}

func oneOrMore(value schema) schema {
	return schema{"anyOf": []schema{value, {"type": "array", "items": value, "minItems": 1}}}
}
