package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gardu/ctl/api/apitest"
	"gardu/ctl/pkt"
)

const capturedLosses = "capturing\n1 packet captured, 2 lost because the buffer was full, 3 missed because this client was too slow\n"

func TestCaptureFormats(t *testing.T) {
	serve(t, &apitest.Engine{})
	var all strings.Builder
	for _, format := range []string{"table", "wide", "ndjson", "csv"} {
		r := gardu(t, "capture", "-o", format, "--snap", "40", "service web")
		if r.code != exitDone || r.stderr != capturedLosses {
			t.Errorf("-o %s: exit %d, %q", format, r.code, r.stderr)
		}
		all.WriteString("-- -o " + format + " --\n" + r.stdout)
	}
	golden(t, "capture", all.String())
}

func TestCaptureFile(t *testing.T) {
	serve(t, &apitest.Engine{})
	path := filepath.Join(t.TempDir(), "web.pcapng")
	if r := gardu(t, "capture", "-w", path); r.code != exitDone || r.stdout != "" || r.stderr != capturedLosses {
		t.Errorf("exit %d, %q, %q", r.code, r.stdout, r.stderr)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := gardu(t, "capture", "-w", "-"); r.stdout != string(text) {
		t.Error("-w - writes something else")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it is %v for others, %v", info.Mode(), err)
	}
	for _, want := range []string{"eth0", "eth1", "forward, service web, backend b1", "sent by gardu: forward, service web, backend b1"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("%q isn't in it", want)
		}
	}
	file, err := pkt.NewCapture(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		packet, err := file.Next()
		if err != nil || !packet.Time.Equal(apitest.Now) || !strings.HasPrefix(pkt.Describe(packet.Frame), "tcp 198.51.100.7:40000 > 192.0.2.10:443 syn") {
			t.Errorf("%+v, %v", packet, err)
		}
	}
	if _, err := file.Next(); err != io.EOF {
		t.Error(err)
	}
}

func TestCaptureUsage(t *testing.T) {
	serve(t, &apitest.Engine{})
	for _, args := range [][]string{
		{"kind drop"}, {"age < 1m"}, {"dport"}, {"--snap", "-1"}, {"--snap", "16385"}, {"-o", "json"}, {"-o", "yaml"}, {"-n", "-1"},
	} {
		if r := gardu(t, append([]string{"capture"}, args...)...); r.code != exitUsage || r.stdout != "" {
			t.Errorf("%v: exit %d, %s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	serve(t, &apitest.Engine{Fail: errors.New("no room")})
	if r := gardu(t, "capture"); r.code != exitFailed || !strings.Contains(r.stderr, "no room") || strings.Contains(r.stderr, "captured") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	path := filepath.Join(t.TempDir(), "no", "such.pcapng")
	if r := gardu(t, "capture", "-w", path); r.code != exitFailed || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}
