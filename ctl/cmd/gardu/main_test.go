package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// result is what a command line came to.
type result struct {
	code           int
	stdout, stderr string
}

// gardu runs one command line in this process.
func gardu(t *testing.T, args ...string) result {
	t.Helper()
	return garduWith(t, "", args...)
}

func garduWith(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := Main(t.Context(), args, strings.NewReader(stdin), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// serve answers for engine on a socket that all commands of the test ask.
func serve(t *testing.T, engine api.Engine) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "gardu.sock")
	listener, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, listener, engine, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("GARDU_SOCKET", socket)
}

// golden compares with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test -update writes it anew):\n%s\nwant:\n%s", path, got, want)
	}
}

// Every reader in every format.
func TestReaders(t *testing.T) {
	serve(t, &apitest.Engine{})
	for _, name := range []string{"status", "rules", "sets", "services", "backends", "blocks", "flows", "events"} {
		golden(t, name, allFormats(t, name))
	}
	golden(t, "groups", allFormats(t, "flows", "--group", "verdict,src/24", "-n", "2"))
	golden(t, "top", topFormats(t))
	golden(t, "plan", planFormats(t))
	golden(t, "explain", allFormats(t, "explain", "tcp 198.51.100.7:40000 > 192.0.2.10:443 syn"))
}

// allFormats runs a command in each format and joins what it prints.
func allFormats(t *testing.T, args ...string) string {
	t.Helper()
	var all strings.Builder
	for _, format := range formats {
		r := gardu(t, append(args, "-o", format)...)
		if r.code != exitDone || r.stderr != "" {
			t.Errorf("%v -o %s: exit %d, %s", args, format, r.code, r.stderr)
		}
		all.WriteString("-- -o " + format + " --\n" + r.stdout)
	}
	return all.String()
}

// topFormats runs top in the formats that it has. The time is that of the example, in UTC.
func topFormats(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, format := range []string{"table", "wide", "ndjson", "csv"} {
		r := gardu(t, "top", "-o", format, "-n", "2")
		if r.code != exitDone || r.stderr != "" {
			t.Errorf("-o %s: exit %d, %s", format, r.code, r.stderr)
		}
		all.WriteString("-- -o " + format + " --\n" + r.stdout)
	}
	return all.String()
}

// A terminal gets colours, and columns stay aligned under them.
func TestColor(t *testing.T) {
	serve(t, &apitest.Engine{})
	var plain, colored bytes.Buffer
	for out, color := range map[*bytes.Buffer]bool{&plain: false, &colored: true} {
		a := newApp(strings.NewReader(""), out, os.Stderr)
		a.color = color
		if code := a.execute(t.Context(), []string{"backends"}); code != exitDone {
			t.Fatalf("exit %d", code)
		}
	}
	if !strings.Contains(colored.String(), "\x1b[32mup\x1b[0m") || !strings.Contains(colored.String(), "\x1b[31mdown\x1b[0m") {
		t.Errorf("colours are missing:\n%q", colored.String())
	}
	stripped := colored.String()
	for _, s := range []style{bold, dim, good, warn, bad} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+string(s)+"m", "")
	}
	if stripped = strings.ReplaceAll(stripped, "\x1b[0m", ""); stripped != plain.String() {
		t.Errorf("got\n%s\nwant\n%s", stripped, plain.String())
	}
}

func TestHelp(t *testing.T) {
	t.Setenv("GARDU_SOCKET", "")
	var all strings.Builder
	a := newApp(nil, nil, nil)
	for _, cmd := range a.command().Commands() {
		if cmd.Name() == "completion" || cmd.Name() == "help" {
			continue
		}
		r := gardu(t, "help", cmd.Name())
		if r.code != exitDone || r.stderr != "" || cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: exit %d, %s", cmd.Name(), r.code, r.stderr)
		}
		if cmd.Runnable() && cmd.Name() != "version" && (cmd.Long == "" || cmd.Example == "" || cmd.GroupID == "") {
			t.Errorf("%s has no long help, example or group", cmd.Name())
		}
		for line := range strings.Lines(cmd.Long) {
			if len(strings.TrimSpace(line)) > 88 && cmd.Runnable() {
				t.Errorf("%s: a line of help is too long: %s", cmd.Name(), line)
			}
		}
		all.WriteString(cmd.Name() + " ")
	}
	for _, name := range strings.Fields("init run check plan apply status rules sets services backends block unblock blocks flows top events explain detach demo decap version") {
		if !strings.Contains(" "+all.String(), " "+name+" ") {
			t.Errorf("no command %s", name)
		}
	}
	golden(t, "help", gardu(t).stdout)
}

func TestCompletion(t *testing.T) {
	serve(t, &apitest.Engine{})
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := gardu(t, "completion", shell); r.code != exitDone || !strings.Contains(r.stdout, "gardu") {
			t.Errorf("%s: exit %d, %s", shell, r.code, r.stderr)
		}
	}
	for args, want := range map[string]string{
		"unblock ":                "203.0.113.7/32\tscanner, again",
		"status -o ":              "ndjson",
		"flows --sort ":           "duration",
		"flows --group src/24,se": "src/24,service",
		"back":                    "backends",
		"unblock x 203.":          "203.0.113.7/32",
	} {
		words := append([]string{"__complete"}, strings.Split(args, " ")...)
		if r := gardu(t, words...); !strings.Contains(r.stdout, want) {
			t.Errorf("%q completes to %q", args, r.stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	if r := gardu(t, "version"); r.code != exitDone || !strings.HasPrefix(r.stdout, "gardu ") || !strings.Contains(r.stdout, fmt.Sprintf("ABI %d", abi.AbiVersion)) {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "version", "-o", "json"); !strings.Contains(r.stdout, fmt.Sprintf(`"abi": %d`, abi.AbiVersion)) {
		t.Errorf("%+v", r)
	}
}

// Wrong usage is exit code 2, says what is wrong and where help is, and reaches no daemon.
func TestUsage(t *testing.T) {
	serve(t, &apitest.Engine{Fail: errors.New("asked")})
	for args, want := range map[string]string{
		"frobnicate":                    `unknown command "frobnicate"`,
		"statsu":                        "status", // did you mean
		"status --bogus":                "unknown flag: --bogus",
		"status extra":                  "extra",
		"status -o xml":                 "table, wide, json, ndjson, yaml, csv",
		"run":                           `"config" not set`,
		"check":                         "1 arg",
		"plan":                          "1 arg",
		"apply a b":                     "1 arg",
		"block":                         "at least 1 arg",
		"block 203.0.113.300":           `"203.0.113.300" is not an IP address`,
		"block 203.0.113.7 --for 0s":    "a time like",
		"block 203.0.113.7 --for -5m":   "a time like",
		"block 203.0.113.7 --for x":     "a time like",
		"block 203.0.113.7 --for -1d":   "a time like",
		"block 203.0.113.7 --for 9999d": "leave --for out",
		"unblock":                       "at least 1 arg",
		"unblock x":                     `"x" is not an IP address`,
		"flows dpotr 443":               "^",
		"flows --sort beauty":           "bytes, dst",
		"flows -n -1":                   "number of flows",
		"flows --group src,sevice":      "interface, verdict",
		"flows --group=":                "a key is missing",
		"flows --group src --sort dst":  "groups are sorted by bytes, duration, first, flows",
		"top dpotr 443":                 "^",
		"top --sort src":                "bytes, packets, flows",
		"top --group srv":               "interface, verdict",
		"top --every 1ms":               "100ms to 1h",
		"top -n 0":                      "1 to 10000",
		"top --count -1":                "number of times",
		"top -o json":                   "ndjson",
		"events bytes > 1":              "^",
		"events -n -1":                  "number of events",
		"events -f -o json":             "ndjson",
		"explain":                       "no packet",
		"explain tcp x":                 "gardu help packet",
		"explain tcp --pcap x":          "not both",
		"explain --pcap x --packet 0":   "from 1",
		"explain --as-new-flow --with-flow arp who-has 192.0.2.1 tell 192.0.2.2": "not both",
		"explain --backend b1 arp who-has 192.0.2.1 tell 192.0.2.2":              "say --with-flow too",
		"explain --time soon arp who-has 192.0.2.1 tell 192.0.2.2":               "in how long",
		"explain --time 2020-01-02 arp who-has 192.0.2.1 tell 192.0.2.2":         "is over",
	} {
		r := gardu(t, strings.Fields(args)...)
		if r.code != exitUsage || !strings.Contains(r.stderr, want) || r.stdout != "" ||
			!strings.HasPrefix(r.stderr, "gardu") || !strings.Contains(r.stderr, "tells more") {
			t.Errorf("%s: exit %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
}

// Without a daemon every command that asks it is exit code 3 and says what to do.
func TestUnreachable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gardu.yaml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range []string{"status", "rules", "sets", "services", "backends", "blocks", "flows", "top", "events", "events -f", "block 192.0.2.1", "unblock 192.0.2.1",
		"plan " + file, "apply " + file, "explain icmp 192.0.2.1 > 192.0.2.2 echo-request"} {
		command := strings.Fields(args)
		r := gardu(t, append([]string{"--socket", socket}, command...)...)
		if r.code != exitUnreachable || !strings.HasPrefix(r.stderr, "gardu "+command[0]+": ") || !strings.Contains(r.stderr, "can't be reached") ||
			!strings.Contains(r.stderr, socket) || !strings.Contains(r.stderr, "gardu run -c FILE") {
			t.Errorf("%s: exit %d\n%s", args, r.code, r.stderr)
		}
	}
}

func TestDaemonError(t *testing.T) {
	serve(t, &apitest.Engine{Fail: api.NewProblem(api.CodeFull, "262144 blocks are the most")})
	if r := gardu(t, "block", "192.0.2.1"); r.code != exitFailed || r.stderr != "gardu block: 262144 blocks are the most\n" {
		t.Errorf("%+v", r)
	}
}

func TestEmptyLists(t *testing.T) {
	serve(t, empty{&apitest.Engine{}})
	for format, want := range map[string]string{"table": "", "json": "[]\n", "ndjson": "", "yaml": "[]\n", "csv": "prefix,packets,bytes,created,expires,origin,why\n"} {
		if r := gardu(t, "blocks", "-o", format); r.code != exitDone || r.stdout != want {
			t.Errorf("%s: %+v", format, r)
		}
	}
	if r := gardu(t, "blocks"); r.stderr != "no blocks\n" {
		t.Errorf("%+v", r)
	}
}

type empty struct{ *apitest.Engine }

func (empty) Blocks(context.Context) ([]api.Block, error) { return nil, nil }

// What others wrote can't move the cursor.
func TestControlCharacters(t *testing.T) {
	serve(t, hostile{&apitest.Engine{}})
	if r := gardu(t, "blocks", "-o", "wide"); strings.ContainsAny(r.stdout, "\x1b\r") || !strings.Contains(r.stdout, "?[2Jowned") {
		t.Errorf("%q", r.stdout)
	}
}

type hostile struct{ *apitest.Engine }

func (hostile) Blocks(context.Context) ([]api.Block, error) {
	return []api.Block{{Why: "\x1b[2Jowned\r"}}, nil
}

func TestNeedsRoot(t *testing.T) {
	for _, args := range []string{"run -c x.yaml", "demo", "detach", "decap -i eth0"} {
		var stderr bytes.Buffer
		a := newApp(nil, &stderr, &stderr)
		a.root = false
		if code := a.execute(t.Context(), strings.Fields(args)); code != exitFailed || !strings.Contains(stderr.String(), "needs root\n  run it with sudo") {
			t.Errorf("%s: exit %d, %s", args, code, stderr.String())
		}
	}
}
