// Package rule knows what a rule can match. Fields has one row a field, the same rows as bpf/fields.h: its kind,
// bounds, names, and the text form of its values, which configuration, command line and page share. The package
// also prints rules, and finds rules that contradict themselves or can never be reached.
//
// Everything here is a pure function of model values; all numbers are in host order.
package rule
