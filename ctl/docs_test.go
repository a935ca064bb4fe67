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
	link  = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	quote = regexp.MustCompile("`([a-z.][a-z./]*/[A-Za-z0-9_./-]*[a-z])`")
)

// documents are what people read, from the top of the repository.
func documents(t *testing.T) []string {
	t.Helper()
	all := []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("docs: %d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		all = append(all, strings.TrimPrefix(page, "../"))
	}
	return all
}

// fences returns what a document shows in a language, without its indentation.
func fences(text, language string) (blocks []string) {
	var block *strings.Builder
	indent := ""
	for line := range strings.Lines(text) {
		bare := strings.TrimSpace(line)
		switch {
		case block == nil && bare == "```"+language:
			block = &strings.Builder{}
			indent, _, _ = strings.Cut(line, "`")
		case block != nil && bare == "```":
			blocks = append(blocks, block.String())
			block = nil
		case block != nil:
			block.WriteString(strings.TrimPrefix(line, indent))
		}
	}
	return blocks
}

// What documents show must be configurations that gardu takes, without a warning.
func TestShownConfigurationsAreValid(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lists"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lists/drop.netset"), []byte("192.0.2.0/24\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, document := range documents(t) {
		for _, block := range fences(read(t, filepath.Join("..", document)), "yaml") {
			looked++
			_, warnings, err := config.Parse(document, []byte(block), dir)
			if err != nil {
				t.Error(err)
			}
			for _, warning := range warnings {
				if strings.HasPrefix(document, "docs/") {
					t.Errorf("%s: %s", document, warning.Msg)
				}
			}
		}
	}
	if looked < 10 {
		t.Errorf("only %d configurations are shown", looked)
	}
}

// Files that the documents name, by link or as `dir/file`, must exist.
func TestDocumentsNameFilesThatExist(t *testing.T) {
	for _, document := range documents(t) {
		text := read(t, filepath.Join("..", document))
		var named []string
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			if target, err := url.Parse(match[1]); err == nil && !target.IsAbs() {
				named = append(named, filepath.Join(filepath.Dir(document), match[1]))
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

// Every page of docs is reached from the README.
func TestReadmeLinksPages(t *testing.T) {
	readme := read(t, "../README.md")
	for _, document := range documents(t) {
		if strings.HasPrefix(document, "docs/") && !strings.Contains(readme, "]("+document+")") {
			t.Errorf("README.md doesn't link %s", document)
		}
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
