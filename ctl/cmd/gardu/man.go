package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand is for who builds packages: it is hidden.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a directory",
		Hidden: true,
		Long: `Writes a man page for each command and each topic of help, as gardu.1, gardu-status.1,
gardu-packet.7 and so on. They say what help says.`,
		Example: `  gardu man /usr/local/share/man/man1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, page := range manTree(cmd.Root()) {
				if err := os.WriteFile(filepath.Join(args[0], page.file()), []byte(page.text()), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manPage is the page of one command, or of a topic of help.
type manPage struct {
	cmd *cobra.Command
}

// manTree returns the pages of a command and of all below it.
func manTree(cmd *cobra.Command) []manPage {
	pages := []manPage{{cmd}}
	for _, child := range cmd.Commands() {
		if !child.Hidden {
			pages = append(pages, manTree(child)...)
		}
	}
	return pages
}

func (p manPage) name() string { return strings.ReplaceAll(p.cmd.CommandPath(), " ", "-") }

// section is 1 for commands, 7 for what only explains.
func (p manPage) section() int {
	if p.cmd.IsAdditionalHelpTopicCommand() {
		return 7
	}
	return 1
}

func (p manPage) file() string { return fmt.Sprintf("%s.%d", p.name(), p.section()) }

func (p manPage) text() string {
	var r roff
	cmd := p.cmd
	r.macro("TH", strings.ToUpper(p.name()), fmt.Sprint(p.section()), "", "gardu "+thisBuild().Version, "gardu")
	r.macro("SH", "NAME")
	r.line(p.name() + " - " + cmd.Short)
	if p.section() == 1 {
		r.macro("SH", "SYNOPSIS")
		r.macro("B", cmd.UseLine())
	}
	r.macro("SH", "DESCRIPTION")
	r.prose(orElse(cmd.Long, cmd.Short))
	r.commands(cmd)
	r.flags("OPTIONS", cmd.NonInheritedFlags())
	r.flags("OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		r.macro("SH", "EXAMPLES")
		r.asIs(cmd.Example)
	}
	if p.section() == 1 && !cmd.HasParent() {
		r.macro("SH", "EXIT STATUS")
		r.prose("0 done, 1 failed, 2 wrong usage, 3 the daemon can't be reached.")
	}
	if cmd.HasParent() {
		r.macro("SH", "SEE ALSO")
		r.macro("BR", manPage{cmd.Parent()}.name(), "(1)")
	}
	return r.String()
}

// roff is the text of a man page.
type roff struct{ strings.Builder }

// macro writes a request with its arguments.
func (r *roff) macro(name string, args ...string) {
	r.WriteString("." + name)
	for _, arg := range args {
		r.WriteString(` "` + strings.ReplaceAll(escapeRoff(arg), `"`, `""`) + `"`)
	}
	r.WriteString("\n")
}

func (r *roff) line(text string) {
	text = escapeRoff(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text // else it would be a request
	}
	r.WriteString(text + "\n")
}

func escapeRoff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
}

// prose fills paragraphs anew, and leaves lines that are indented as they are.
func (r *roff) prose(text string) {
	indented := false
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		line = strings.TrimRight(line, "\n")
		switch now := strings.HasPrefix(line, " "); {
		case line == "":
			r.macro("PP")
			continue
		case now != indented:
			r.macro(map[bool]string{true: "nf", false: "fi"}[now])
			indented = now
		}
		r.line(line)
	}
	if indented {
		r.macro("fi")
	}
}

func (r *roff) asIs(text string) {
	r.macro("nf")
	for line := range strings.Lines(text) {
		r.line(strings.TrimRight(line, "\n"))
	}
	r.macro("fi")
}

// commands lists what is below a command.
func (r *roff) commands(cmd *cobra.Command) {
	pages := manTree(cmd)[1:]
	if len(pages) > 0 {
		r.macro("SH", "COMMANDS")
	}
	for _, page := range pages {
		r.macro("TP")
		r.macro("BR", page.name(), fmt.Sprintf("(%d)", page.section()))
		r.line(page.cmd.Short)
	}
}

func (r *roff) flags(title string, flags *pflag.FlagSet) {
	if flags.HasAvailableFlags() {
		r.macro("SH", title)
	}
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(flag)
		name := "--" + flag.Name
		if flag.Shorthand != "" {
			name = "-" + flag.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + value
		}
		r.macro("TP")
		r.macro("B", name)
		r.line(usage)
	})
}
