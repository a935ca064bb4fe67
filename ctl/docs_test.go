package ctl_test

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gardu/ctl/config"
)

var (
	fence = regexp.MustCompile("(?s)\n```yaml\n(.*?)```\n")
	link  = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	quote = regexp.MustCompile("`([a-z.][a-z./]*/[A-Za-z0-9_./-]*[a-z])`")
)

// What the README shows must be a configuration that gardu takes.
func TestReadmeConfigurationsAreValid(t *testing.T) {
	blocks := fence.FindAllStringSubmatch(read(t, "../README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("README.md shows no configuration")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lists"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lists/drop.netset"), []byte("192.0.2.0/24\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks {
		if _, _, err := config.Parse("README.md", []byte(block[1]), dir); err != nil {
			t.Error(err)
		}
	}
}

// Files that the documents name, by link or as `dir/file`, must exist.
func TestDocumentsNameFilesThatExist(t *testing.T) {
	for _, document := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text := read(t, filepath.Join("..", document))
		var named []string
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			if target, err := url.Parse(match[1]); err == nil && !target.IsAbs() {
				named = append(named, match[1])
			}
		}
		for _, match := range quote.FindAllStringSubmatch(text, -1) {
			if first, _, _ := strings.Cut(match[1], "/"); isDir(filepath.Join("..", first)) {
				named = append(named, match[1])
			}
		}
		for _, name := range named {
			if _, err := os.Stat(filepath.Join("..", name)); err != nil {
				t.Errorf("%s names %s: %v", document, name, err)
			}
		}
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
