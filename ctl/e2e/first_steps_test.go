package e2e

import (
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"gardu/ctl/testnet"
)

// TestFirstSteps does what the README says under that title, line by line, on a machine whose networks are those in the text.
func TestFirstSteps(t *testing.T) {
	w := newBoxAlone(t)
	w.connect(w.client, "198.51.100.10/24 198.51.100.13/24", "eth0", "198.51.100.1/24")
	w.must(w.box.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.10"))) // what leads out
	backend := w.node("backend")
	w.backends = append(w.backends, backend)
	w.connect(backend, "10.0.0.11/24 10.0.0.12/24", "eth1", "10.0.0.1/24")
	w.startWeb()
	w.must(os.Mkdir(w.path("bin"), 0o755))
	w.must(os.Symlink(binary, w.path("bin/gardu")))
	text, err := os.ReadFile("../../README.md")
	w.must(err)
	block, balance, count, drive := steps(t, string(text))
	w.must(os.WriteFile(w.path("balance.yaml"), []byte(balance.yaml), 0o644))
	w.must(os.WriteFile(w.path("count.yaml"), []byte(count.yaml), 0o644))

	for _, line := range block.lines {
		w.step(line)
	}
	w.serve(w.box, "198.51.100.1:8080")
	if _, err := w.curl(w.client, "--interface", "198.51.100.10", "http://198.51.100.1:8080/"); err != nil {
		t.Error(err)
	}
	w.silent(w.client, "--interface", "198.51.100.13", "http://198.51.100.1:8080/")

	for i, line := range balance.lines {
		if i == len(balance.lines)-1 {
			w.ready()
			w.fetch("192.0.2.10")
		}
		w.step(line)
	}
	w.fetch("192.0.2.10")
	if out := w.step("gardu backends"); !regexp.MustCompile(`(?m)^web +b1 .*draining`).MatchString(out) {
		t.Errorf("after the drain:\n%s", out)
	}

	for _, line := range count.lines {
		w.fetch("198.51.100.1:8080")
		w.step(line)
	}
	if out := w.step("gardu flows -o csv"); !strings.Contains(out, "198.51.100.10") {
		t.Errorf("flows:\n%s", out)
	}

	for _, line := range drive.lines {
		if w.step(line) == "" && !strings.Contains(line, " > ") {
			t.Errorf("%s says nothing", line)
		}
	}
	if out := w.step("gardu blocks -o csv"); !strings.Contains(out, "198.51.100.13/32") {
		t.Errorf("blocks:\n%s", out)
	}
	w.curlLines("../../docs/api.md", "--unix-socket")

	watch, _, _ := strings.Cut(string(text[strings.Index(string(text), "\n## Watch\n"):]), "\n```\n")
	_, yaml, _ := strings.Cut(watch, "```yaml\n")
	w.must(os.WriteFile(w.path("watch.yaml"), []byte(yaml), 0o644))
	w.step("gardu apply watch.yaml")
	w.until("it is served by TCP", func() error {
		_, err := w.get("http://127.0.0.1:9180/healthz")
		return err
	})
	w.curlLines("../../README.md", "http://127.0.0.1:9180")
}

// curlLines does what a document says with curl, where it has these words, and doesn't end only when somebody ends it.
func (w *world) curlLines(document, words string) {
	w.Helper()
	text, err := os.ReadFile(document)
	w.must(err)
	done := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "curl ") && strings.Contains(line, words) && !strings.Contains(line, "follow=true") && !strings.Contains(line, "Bearer") {
			done++
			w.step(line)
		}
	}
	if done < 3 {
		w.Errorf("%s: only %d lines with %s", document, done, words)
	}
}

// connect links a node with the box, which is its default gateway.
func (w *world) connect(node *testnet.Node, its, ifname, address string) {
	w.Helper()
	w.must(w.network.Connect(
		testnet.End{Node: node, Name: "eth0", Addresses: addresses(strings.Fields(its)...)},
		testnet.End{Node: w.box, Name: ifname, Addresses: addresses(address)}, 0))
	gateway := addresses(address)[0].Addr()
	w.must(node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), gateway))
}

func (w *world) fetch(host string) {
	w.Helper()
	w.until("an answer of "+host, func() error {
		_, err := w.curl(w.client, "--interface", "198.51.100.10", "http://"+host+"/name")
		return err
	})
}

// step does what a line says, in the box.
func (w *world) step(line string) string {
	w.Helper()
	shell := exec.Command("sh", "-ec", line)
	line = strings.ReplaceAll(line, "/run/gardu/gardu.sock", w.path("gardu.sock"))
	line = regexp.MustCompile(`^curl `).ReplaceAllString(line, "curl -sSf --max-time 20 ")
	line, background := strings.CutSuffix(strings.TrimSpace(regexp.MustCompile(` #.*`).ReplaceAllString(line, "")), "&")
	shell.Args[2] = "sudo() { \"$@\"; }; cd " + w.dir + "; " + line
	shell.Env = append(os.Environ(), "PATH="+w.path("bin")+":"+os.Getenv("PATH"), "GARDU_SOCKET="+w.path("gardu.sock"))
	w.Log(line)
	if background {
		shell.Args[2] = strings.Replace(shell.Args[2], "sudo gardu run", "exec gardu run --bpffs "+w.bpffs+" --state "+w.path("state"), 1)
		log, err := os.Create(w.path("gardu.log"))
		w.must(err)
		defer log.Close()
		shell.Stdout, shell.Stderr = log, log
		w.daemon, err = w.box.Start(shell)
		w.must(err)
		w.until("the daemon answers", func() error {
			_, err := w.api.Status(w.Context())
			return err
		})
		return ""
	}
	var out []byte
	err := w.box.Do(func() (err error) {
		out, err = shell.CombinedOutput()
		return err
	})
	if err != nil {
		w.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

type walk struct {
	yaml  string
	lines []string
}

// steps reads the four walks of the README.
func steps(t *testing.T, readme string) (block, balance, count, drive walk) {
	t.Helper()
	_, section, _ := strings.Cut(readme, "\n## First steps\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var walks []walk
	var yaml string
	for _, found := range regexp.MustCompile("(?ms)^```(sh|yaml)\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		if found[1] == "yaml" {
			yaml = found[2]
			continue
		}
		walks = append(walks, walk{yaml, strings.Split(strings.TrimSpace(found[2]), "\n")})
	}
	for _, w := range walks {
		if len(w.lines) != 5 {
			t.Errorf("%d lines: %q", len(w.lines), w.lines)
		}
	}
	if len(walks) != 4 {
		t.Fatalf("%d walks in README.md", len(walks))
	}
	return walks[0], walks[1], walks[2], walks[3]
}
