package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNewestGoesByNumber(t *testing.T) {
	names := []string{"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-47-cloud-amd64"}
	if got := newest(names); got != names[1] {
		t.Errorf("the newest of %v is %s, want %s", names, got, names[1])
	}
}

// Read the archive back as the kernel does: a header, the name, padding, the content, padding.
func TestArchive(t *testing.T) {
	source := t.TempDir()
	if err := os.MkdirAll(filepath.Join(source, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"a": "one", "sub/b": "seventeen bytes!!"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	archive := &cpio{w: &out, made: map[string]bool{}}
	archive.tree("src/data", source)
	archive.end()
	if archive.err != nil {
		t.Fatal(archive.err)
	}
	var got []string
	for rest := out.Bytes(); len(rest) > 0; {
		var fields [13]int
		if !bytes.HasPrefix(rest, []byte("070701")) {
			t.Fatalf("no header at %q", rest[:min(len(rest), 16)])
		}
		for i := range fields {
			if _, err := fmt.Sscanf(string(rest[6+8*i:14+8*i]), "%X", &fields[i]); err != nil {
				t.Fatal(err)
			}
		}
		size, length := fields[6], fields[11]
		name := string(rest[110 : 110+length-1])
		content := (110 + length + 3) &^ 3
		got = append(got, strings.TrimSpace(name+" "+string(rest[content:content+size])))
		rest = rest[min(len(rest), (content+size+3)&^3):]
	}
	want := "src,src/data,src/data/a one,src/data/sub,src/data/sub/b seventeen bytes!!,TRAILER!!!"
	if strings.Join(got, ",") != want {
		t.Errorf("the archive holds %q, want %q", got, want)
	}
}

func TestFollowFindsTheLastWord(t *testing.T) {
	console := "noise\n" + mark + "lb: ok\r\nmore\n" + mark + allPassed + "\r\n[ 2.7] reboot"
	if last, said := follow(strings.NewReader(console), "", true); last != allPassed || said != console {
		t.Errorf("last word %q of %q", last, said)
	}
}
