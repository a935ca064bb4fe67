package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	shell = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")
	call  = regexp.MustCompile(`(?:^|\s)gardu( [^#|;&\n]*)`)
	word  = regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)
)

// asking are the commands that ask the daemon and nothing else: without one they get as far as not reaching it.
var asking = strings.Fields("status rules sets services backends block unblock blocks flows top events explain capture history confirm rollback drain undrain weight create list revoke")

// Every command that the documents show is one, with flags that it has and, where only a daemon is missing, arguments that it takes.
func TestShownCommands(t *testing.T) {
	top, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(top, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // capture -w makes its file first
	shown := map[string]bool{}
	for _, path := range append(paths, filepath.Join(top, "README.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range shell.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				if found := call.FindStringSubmatch(line); found != nil && !shown[found[1]] {
					shown[found[1]] = true
					tryShown(t, filepath.Base(path), found[1])
				}
			}
		}
	}
	if len(shown) < 40 {
		t.Errorf("only %d commands are shown", len(shown))
	}
}

func tryShown(t *testing.T, document, text string) {
	t.Helper()
	var args []string
	for _, w := range word.FindAllString(text, -1) {
		if w == ">" {
			break // to a file
		}
		args = append(args, strings.Trim(w, `'"`))
	}
	root := newApp(strings.NewReader(""), nil, nil).command()
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == root {
		t.Errorf("%s: gardu%s: no such command", document, text)
		return
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%s: gardu%s: %v", document, text, err)
		return
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		t.Errorf("%s: gardu%s: %v", document, text, err)
	}
	files := cmd.Flags().Changed("config") || cmd.Flags().Changed("pcap") || cmd.Flags().Changed("file")
	if !slices.Contains(asking, cmd.Name()) || files {
		return
	}
	r := gardu(t, append(args, "--socket", filepath.Join(t.TempDir(), "nobody.sock"))...)
	if r.code != exitUnreachable {
		t.Errorf("%s: gardu%s: %+v", document, text, r)
	}
}
