// Package yaml reads a YAML document into nodes that know their place. Configurations with 100,000 rules are read by
// a small reader of our own, which takes the YAML that people and programs mostly write: indented mappings and lists,
// {} and [], plain and quoted words. Whatever it doesn't know for certain it leaves to the library, which knows all of
// YAML and takes ten times as long. Both yield the same nodes; a fuzz test compares them.
package yaml
