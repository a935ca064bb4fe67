package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The committed objects have as many instructions as the committed file says.
func TestInstructionsAreThoseOfTheObjects(t *testing.T) {
	objects, err := filepath.Glob("../../ctl/dataplane/*_bpfel.o")
	if err != nil || len(objects) == 0 {
		t.Fatalf("no objects: %v", err)
	}
	got, err := count(objects)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("instructions.txt")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("instructions are\n%s\nand not\n%s\n`make generate` writes the file", got, want)
	}
}
