// Package ring takes out of a ring buffer what programs write into it, a record at a time.
package ring
