package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

// app is what all commands share: where they read and write, and the flags of the root.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	color          bool // stdout takes escape sequences
	root           bool // may use BPF and netlink

	socket string
	server string // URL of a daemon that is asked by TCP instead; empty: none
	format format
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{
		stdin: stdin, stdout: stdout, stderr: stderr,
		color: isTerminal(stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		root:  os.Geteuid() == 0,
	}
}

func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// execute runs one command line and returns the exit code.
func (a *app) execute(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(cmd, err)
}

// Groups of commands in the help text.
const (
	groupLook   = "look"
	groupChange = "change"
	groupRun    = "run"
	groupOther  = "other"
)

// command builds the whole tree.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gardu",
		Short: "Filter, balance and count packets in the kernel",
		Long: `gardu filters, balances and counts packets with eBPF, in one pass at XDP or tc.

One daemon (gardu run) loads a YAML file, attaches and serves; every other
command asks it over a Unix socket. Packets keep flowing while it is stopped
with --keep-attached, killed or upgraded.`,
		Example: `  gardu demo                              see all of it on this machine alone
  gardu check gardu.yaml                  validate a configuration
  sudo gardu run -c gardu.yaml            attach and serve
  gardu status                            what is attached, what became of the packets
  gardu block 203.0.113.7 --for 10m       drop a source, now
  gardu flows 'dport 443 and bytes > 1M'  who talks to whom
  gardu explain 'tcp 198.51.100.7:40000 > 192.0.2.10:443 syn'`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", defaultSocket(), "`PATH` of the daemon's Unix socket (or set GARDU_SOCKET)")
	root.PersistentFlags().StringVar(&a.server, "server", os.Getenv("GARDU_SERVER"),
		"ask the daemon at this `URL` instead, with the token in GARDU_TOKEN_FILE (or set GARDU_SERVER)")
	root.MarkFlagsMutuallyExclusive("socket", "server")
	root.AddGroup(
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupChange, Title: "Change:"},
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	a.add(root, groupLook, a.statusCommand(), a.rulesCommand(), a.setsCommand(), a.servicesCommand(), a.backendsCommand(),
		a.blocksCommand(), a.flowsCommand(), a.topCommand(), a.eventsCommand(), a.captureCommand(), a.explainCommand(), a.replayCommand(),
		a.planCommand(), a.historyCommand())
	a.add(root, groupChange, a.applyCommand(), a.confirmCommand(), a.rollbackCommand(), a.blockCommand(), a.unblockCommand(), a.drainCommand(),
		a.undrainCommand(), a.weightCommand(), a.tokenCommand(), a.logLevelCommand())
	a.add(root, groupRun, a.initCommand(), a.runCommand(), a.checkCommand(), a.doctorCommand(), a.demoCommand(), a.decapCommand(), a.detachCommand(), a.bpfCommand())
	a.add(root, groupOther, a.versionCommand(), a.manCommand())
	root.AddCommand(packetTopic(), exprTopic())
	root.SetCompletionCommandGroupID(groupOther)
	root.SetHelpCommandGroupID(groupOther)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	return root
}

// add puts commands into a group. What their RunE returns is a failure, unless it says that it is wrong usage.
func (a *app) add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, cmd := range commands {
		cmd.GroupID = group
		failing(cmd)
		root.AddCommand(cmd)
	}
}

// failing makes what RunE returns a failure.
func failing(cmd *cobra.Command) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil {
			return &failure{err}
		}
		return nil
	}
}

func defaultSocket() string {
	if path := os.Getenv("GARDU_SOCKET"); path != "" {
		return path
	}
	return api.DefaultSocket
}

// ask calls the daemon.
func (a *app) ask(call func(*client.Client) error) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return call(c)
}

// dial returns a client of the daemon that the command is for. A token is never on the command line, where others could read it.
func (a *app) dial() (*client.Client, error) {
	if a.server == "" {
		return client.New(a.socket), nil
	}
	to := client.TCP{URL: a.server, Token: os.Getenv("GARDU_TOKEN")}
	if path := os.Getenv("GARDU_TOKEN_FILE"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
		to.Token = strings.TrimSpace(string(text))
	}
	if path := os.Getenv("GARDU_CA_FILE"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the certificates that are trusted: %w", err)
		}
		to.Roots = x509.NewCertPool()
		if !to.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", path)
		}
	}
	return client.NewTCP(to)
}

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.stdout, format, args...)
}

// warnf tells a person something that is not the command's output.
func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.stderr, format, args...)
}
