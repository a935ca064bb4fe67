package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// clamped is what gardu decap says in the end: each of eight uploads was asked, and so were checks.
var clamped = regexp.MustCompile(`asked for segments of at most 1412 bytes \d{2,} times`)

// TestClamp uploads through tunnels that full packets of clients don't fit into, to backends that ask for smaller segments: none is too big, so
// nobody needs to be told.
func TestClamp(t *testing.T) {
	w := newBoxAlone(t)
	w.innerMTU = 1500
	w.connectClient()
	w.addBackend(1)
	w.startWeb()
	log, err := os.Create(w.path("decap.log"))
	w.must(err)
	defer log.Close()
	cmd := exec.Command(binary, "decap", "-i", "eth0", "--mss", "1412") // 1500 - 40 - 48, the most that a mode here adds
	cmd.Stdout, cmd.Stderr = log, log
	decap, err := w.backends[0].Start(cmd)
	w.must(err)
	w.start(allForwards("tc", 1))
	w.ready() // through the tunnels
	file, sum := w.file("blob", someBytes)
	for _, f := range forwards[2:10] {
		if err := w.do(w.upload(host(f.address), file, "sent-"+f.name, ""), sum); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	if n := w.packets("too-big-told") + w.packets("too-big"); n != 0 {
		t.Errorf("%d packets were too big", n)
	}
	if err := decap.Stop(patience); err != nil {
		t.Error(err)
	}
	if said, err := os.ReadFile(log.Name()); err != nil || !clamped.Match(said) {
		t.Errorf("gardu decap: %v\n%s", err, said)
	}
}
