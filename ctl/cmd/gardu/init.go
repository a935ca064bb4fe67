package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gardu/configs"
	"gardu/ctl/netdev"
)

const defaultConfig = "/etc/gardu/gardu.yaml"

func (a *app) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a first configuration for this machine",
		Long: `Writes a configuration to begin with, with comments: the interfaces that lead out,
what path: auto will choose for them, and rules for replies, ping and this machine's
SSH ports. It drops nothing until you say so. FILE is ` + defaultConfig + ` when it
is left out, and - for stdout. A file that is there is never overwritten, unless it is
the one that a package installed, untouched.`,
		Example: `  sudo gardu init
  gardu init - | less`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text := firstConfig(thisHost())
			path := defaultConfig
			if len(args) > 0 {
				path = args[0]
			}
			if path == "-" {
				a.printf("%s", text)
				return nil
			}
			if err := writeFirst(path, text); err != nil {
				return err
			}
			a.printf("%s is written; read it, then:\n  gardu check %s\n  sudo gardu run -c %s     or: sudo systemctl reload-or-restart gardu\n", path, path, path)
			return nil
		},
	}
}

// writeFirst makes a file, or replaces the one that a package installed.
func writeFirst(path, text string) error {
	now, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !bytes.Equal(now, configs.Installed):
		return fmt.Errorf("%s is there already, and isn't overwritten\n  choose another name, or look at what would be written: gardu init -", path)
	default:
		whole := path + ".new"
		if err := writeNew(whole, text); err != nil {
			return err
		}
		return os.Rename(whole, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeNew(path, text)
}

func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// host is what init finds out about a machine.
type host struct {
	name     string
	links    []hostLink // those that lead out first
	sshPorts []uint16
	sshFrom  netip.Addr // of the session that init is given in; the zero Addr: of none
}

type hostLink struct {
	name      string
	out       bool   // has a default route
	path, why string // what auto chooses
	addresses []netip.Prefix
}

// thisHost asks the kernel and sshd's configuration. What they don't tell is left out.
func thisHost() host {
	var h host
	h.name, _ = os.Hostname()
	words := strings.Fields(sshConnection()) // client, its port, server, its port
	if len(words) == 4 {
		if from, err := netip.ParseAddr(words[0]); err == nil && !from.IsLoopback() {
			h.sshFrom = from.WithZone("").Unmap()
		}
		h.sshPorts = append(h.sshPorts, ports(words[3])...)
	}
	files, _ := filepath.Glob("/etc/ssh/sshd_config.d/*.conf") // the pattern is right
	for _, path := range append(files, "/etc/ssh/sshd_config") {
		if text, err := os.ReadFile(path); err == nil {
			h.sshPorts = append(h.sshPorts, sshdPorts(string(text))...)
		}
	}
	slices.Sort(h.sshPorts)
	if h.sshPorts = slices.Compact(h.sshPorts); len(h.sshPorts) == 0 {
		h.sshPorts = []uint16{22}
	}
	h.links = hostLinks()
	return h
}

func ports(text string) []uint16 {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return nil
	}
	return []uint16{uint16(port)}
}

// sshdPorts returns the ports of an sshd_config.
func sshdPorts(text string) (all []uint16) {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 && strings.EqualFold(words[0], "port") {
			all = append(all, ports(words[1])...)
		}
	}
	return all
}

func hostLinks() []hostLink {
	handle, err := netdev.Open()
	if err != nil {
		return nil
	}
	defer handle.Close()
	out := map[string]bool{}
	for _, somewhere := range []string{"192.0.2.1", "2001:db8::1"} { // by the default route, as all that is far away
		if name, _, err := handle.Way(netip.MustParseAddr(somewhere)); err == nil {
			out[name] = true
		}
	}
	links, err := handle.Links()
	if err != nil {
		return nil
	}
	var all []hostLink
	for _, link := range links {
		if link.Loopback || !link.Ethernet {
			continue
		}
		path, why := netdev.ChoosePath(link)
		all = append(all, hostLink{link.Name, out[link.Name], string(path), why, link.Addresses})
	}
	slices.SortStableFunc(all, func(x, y hostLink) int { return strings.Compare(strconv.FormatBool(y.out), strconv.FormatBool(x.out)) })
	return all
}

// mostOthers is how many interfaces are named that don't lead out: a host of containers has hundreds.
const mostOthers = 8

// firstConfig is the configuration of a host.
func firstConfig(h host) string {
	var b strings.Builder
	printf := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	printf("# gardu on %s, as `gardu init` found it. It drops nothing yet: see filter.default.\n", oneLine(h.name))
	printf("# Every key is in configs/reference.yaml (/usr/share/doc/gardu/examples), each error has its line in `gardu check`.\n\n")

	outs := slices.IndexFunc(append(h.links, hostLink{}), func(l hostLink) bool { return !l.out })
	if outs == 0 {
		printf("# No interface has a default route: name those that packets come in by.\ninterfaces: {}\n")
	} else {
		printf("interfaces:\n")
	}
	for i, link := range h.links {
		if i == outs+mostOthers {
			printf("  # and %d more\n", len(h.links)-i)
			break
		}
		comment := "" // of interfaces that are only proposed
		if !link.out {
			comment = "# "
		}
		printf("  %s%q: {path: auto} # %s; auto takes %s: %s\n", comment, link.name, addressText(link.addresses), link.path, oneLine(link.why))
	}

	printf("\nfilter:\n")
	printf("  # What no rule below decides. With `drop`, only what a rule names comes in: first let `gardu rules` and\n")
	printf("  # `gardu events -f` tell what that would be, then `gardu apply` it.\n")
	printf("  default: pass\n")
	if h.sshFrom.IsValid() {
		printf("  allow: %q # where this was written from: wins over every rule and block\n", h.sshFrom.String())
	} else {
		printf("  # allow: 192.0.2.0/24 # who always comes in, whatever is dropped or blocked\n")
	}
	printf("  rules:\n")
	printf("    - {name: replies, match: {state: established}, action: pass} # to what this machine began, and what it let in\n")
	printf("    - {name: ssh, match: {proto: tcp, dport: %s}, action: pass}\n", portText(h.sshPorts))
	printf("    - {name: ping, match: {proto: [icmp, icmpv6], icmp-type: [8, 128]}, action: pass}\n")
	printf("    - {name: dhcp, match: {proto: udp, sport: [67, 547], dport: [68, 546]}, action: pass}\n")
	printf("    # - {name: web, match: {proto: tcp, dport: [80, 443]}, action: pass}\n")
	printf("\nflows: {max: 100000} # who talks to whom: `gardu flows`, `gardu top`\n")
	return b.String()
}

// oneLine keeps what others chose from ending a comment.
func oneLine(text string) string { return strings.Join(strings.Fields(printable(text)), " ") }

func addressText(addresses []netip.Prefix) string {
	var texts []string
	for _, prefix := range addresses {
		if !prefix.Addr().IsLinkLocalUnicast() {
			texts = append(texts, prefix.String())
		}
	}
	if texts == nil {
		return "no address"
	}
	if len(texts) > 4 {
		texts = append(texts[:4], "...")
	}
	return strings.Join(texts, " ")
}

func portText(ports []uint16) string {
	texts := make([]string, len(ports))
	for i, port := range ports {
		texts[i] = strconv.Itoa(int(port))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}
