package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/netdev"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitChanges     = 4 // of plan --exit-code: something would change
)

// exitCode ends a command that did what it should with a code that says what it found.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// failure is an error of a command that began to run. Cobra's own errors, which come before, are wrong usage.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

// usageError is a command line that makes no sense. topic is what `gardu help` should tell about; "" = the command.
type usageError struct{ text, topic string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// advice is an error and what to do about it.
type advice struct {
	error
	todo string
}

func (e *advice) Unwrap() error { return e.error }

func advise(err error, format string, args ...any) error {
	return &advice{err, fmt.Sprintf(format, args...)}
}

// errNotRoot is the cause of errors that root would not have had.
var errNotRoot = errors.New("this needs root")

func (a *app) needRoot() error {
	if a.root {
		return nil
	}
	return advise(errNotRoot, "run it with sudo")
}

// report prints what was tried, what went wrong and what to do, and returns the exit code.
func (a *app) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	tried := cmd.CommandPath()
	wrong, isUsage := errors.AsType[*usageError](err)
	if isUsage && wrong.topic != "" {
		a.warnf("%s: %v\ngardu help %s tells more\n", tried, err, wrong.topic)
		return exitUsage
	}
	if _, ran := errors.AsType[*failure](err); isUsage || !ran {
		a.warnf("%s: %v\nusage: %s\n%s --help tells more\n", tried, err, cmd.UseLine(), tried)
		return exitUsage
	}
	if list, ok := errors.AsType[config.Errors](err); ok {
		a.warnf("%v\n%s: %s; nothing was changed\n", list, tried, plural(len(list), "error"))
		return exitFailed
	}
	a.warnf("%s: %v\n", tried, err)
	if todo := a.todo(err); todo != "" {
		a.warnf("%s\n", "  "+strings.ReplaceAll(todo, "\n", "\n  "))
	}
	if errors.Is(err, client.ErrUnreachable) {
		return exitUnreachable
	}
	return exitFailed
}

// todo says what to do about an error, "" when the error says it itself.
func (a *app) todo(err error) string {
	if advice, ok := errors.AsType[*advice](err); ok {
		return advice.todo
	}
	problem, _ := errors.AsType[*api.Problem](err)
	switch {
	case errors.Is(err, client.ErrUnreachable) && a.server != "":
		return fmt.Sprintf("does %s name a daemon with api.listen, and may this machine connect there? Without --server and GARDU_SERVER, the one of this machine is asked", a.server)
	case problem != nil && problem.Code == api.CodeNoToken:
		return "put the secret into a file that only you can read, and name it in GARDU_TOKEN_FILE"
	case errors.Is(err, client.ErrUnreachable) && errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("run it with sudo, or join the group that owns %s: sudo adduser $USER %s", a.socket, api.Group)
	case errors.Is(err, client.ErrUnreachable) && errors.Is(err, syscall.ECONNREFUSED):
		return "the daemon has died; packets still take their way. Start it again: sudo gardu run -c FILE"
	case errors.Is(err, client.ErrUnreachable):
		return "start the daemon: sudo gardu run -c FILE\nor say where it listens: --socket PATH, or GARDU_SOCKET"
	case errors.Is(err, api.ErrInUse):
		return "stop the other daemon first, or give this one another --socket and --bpffs"
	case errors.Is(err, dataplane.ErrBusy):
		return "with --replace, gardu takes its place"
	case errors.Is(err, netdev.ErrNoLink):
		return "ip link lists the interfaces of this machine"
	case problem != nil && problem.Code == api.CodeNotReady:
		return "try again in a moment"
	case problem != nil && problem.Code == api.CodeStale:
		return "look at what it is now, and plan again: gardu history, gardu plan FILE"
	case problem != nil && problem.Code == api.CodeCutOff:
		return "let it pass, or have it all the same: --force, best with --confirm 60s"
	case errors.Is(err, os.ErrPermission) && !a.root:
		return "run it with sudo"
	}
	return ""
}

// plural writes a number of things.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	switch stem, y := strings.CutSuffix(noun, "y"); {
	case y:
		noun = stem + "ies"
	case strings.HasSuffix(noun, "x"), strings.HasSuffix(noun, "ss"):
		noun += "es"
	default:
		noun += "s"
	}
	return thousands(uint64(n)) + " " + noun
}
