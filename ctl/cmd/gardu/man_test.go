package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command that can be called has a page, which names its flags, and which man takes without a warning.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if r := gardu(t, "man", dir); r.code != exitDone || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		section := ".1"
		if cmd.Run == nil && cmd.RunE == nil && !cmd.HasSubCommands() {
			section = ".7"
		}
		path := filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+section)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		for flag := range strings.FieldsSeq(cmd.LocalFlags().FlagUsages()) {
			if name := strings.TrimRight(flag, ","); strings.HasPrefix(name, "--") && !strings.Contains(string(text), escapeRoff(name)) {
				t.Errorf("%s doesn't name %s", path, name)
			}
		}
		for _, child := range cmd.Commands() {
			visit(child)
		}
	}
	root := newApp(nil, nil, nil).command()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	visit(root)
	if _, err := os.Stat(filepath.Join(dir, "gardu-man.1")); err == nil {
		t.Error("a hidden command has a page")
	}

	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("no groff here: pages are not looked at")
		return
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	if out, err := exec.Command(groff, append([]string{"-Kutf8", "-man", "-Tutf8", "-wall", "-z"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

// A line of text never becomes a request to roff.
func TestRoffEscapes(t *testing.T) {
	var r roff
	r.prose(".so /etc/passwd\n'x\nback\\slash\n  kept  apart\nfilled\n")
	want := "\\&.so /etc/passwd\n\\&'x\nback\\eslash\n.nf\n  kept  apart\n.fi\nfilled\n"
	if r.String() != want {
		t.Errorf("got %q, want %q", r.String(), want)
	}
}
