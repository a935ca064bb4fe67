package abi

import "unsafe"

// A line of a table is one border struct (Bucket, RuleRecord, ServicesHead, ...) or eight words.
const lineBytes = unsafe.Sizeof(Line{})

// ToLine returns the line that holds v. It panics when T isn't exactly one line long.
func ToLine[T any](v T) (line Line) {
	*overlay[T](&line) = v
	return line
}

// FromLine is the inverse of ToLine.
func FromLine[T any](line Line) T { return *overlay[T](&line) }

func overlay[T any](line *Line) *T {
	if unsafe.Sizeof(*new(T)) != lineBytes {
		panic("abi: a line doesn't hold exactly one value of this type")
	}
	return (*T)(unsafe.Pointer(line))
}
