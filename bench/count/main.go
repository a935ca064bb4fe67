// Command count writes how many instructions each of gardu's programs has, as compiled and before the kernel takes out what is
// off, to a file that is committed: whoever changes the C sees in the diff what it adds, and where.
package main

import (
	"bytes"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("count: ")
	if len(os.Args) < 3 {
		log.Fatal("usage: count TO OBJECT...")
	}
	text, err := count(os.Args[2:])
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(os.Args[1], text, 0o644); err != nil {
		log.Fatal(err)
	}
}

// count is a line a program, object by object.
func count(objects []string) ([]byte, error) {
	var out bytes.Buffer
	for _, object := range objects {
		spec, err := ebpf.LoadCollectionSpec(object)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", object, err)
		}
		for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
			fmt.Fprintf(&out, "%s %d\n", name, len(spec.Programs[name].Instructions))
		}
	}
	return out.Bytes(), nil
}
