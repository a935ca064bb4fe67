package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// benchModules are what the benchmark needs besides: IPVS, its scheduler, and what these ask for without naming it.
var benchModules = append([]string{"crc32c_generic", "nf_conntrack", "ip_vs", "ip_vs_mh", "ipip"}, wantedModules...)

// benchTools are run by the benchmark, with the libraries that they are linked to.
var benchTools = []string{"ip", "ipvsadm", "nginx", "wrk", "iperf3"}

// benchArgs measure gardu, IPVS, and the ways that both are held against. An emulated CPU sends some 20,000 packets a second.
var benchArgs = []string{"/bin/bench", "-parts", "live,transfers", "-rounds", "5", "-packets", "30000", "-o", benchResults, "-gardu", "/bin/gardu",
	"-run", "^(XDP_DROP|XDP_REDIRECT|routed|Linux router|gardu (passes|dsr|ipip)|IPVS.*)$"}

const (
	benchResults = "/tmp/results"
	measured     = "measured "      // begins the line with what the benchmark measured
	benchLimit   = 20 * time.Minute // of which some ten are used on an idle machine
)

// benchmark boots the newest kernel and leaves the benchmark's data in a file.
func benchmark(ctx context.Context, cache, to string, verbose bool) error {
	dir, err := os.MkdirTemp("", "gardu-vmtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files, err := benchPayload(ctx, dir)
	if err != nil {
		return err
	}
	k, err := fetchKernel(ctx, series[len(series)-1], cache, benchModules)
	if err != nil {
		return err
	}
	initrd := filepath.Join(dir, "bench.img")
	if err := writeInitrd(initrd, k, files); err != nil {
		return err
	}
	fmt.Printf("== %s\n", k.release)
	said, err := boot(ctx, k, initrd, benchLimit, verbose)
	if err != nil {
		return err
	}
	_, data, found := strings.Cut(said, mark+measured)
	if !found {
		return errors.New("the benchmark left no result")
	}
	data, _, _ = strings.Cut(data, "\n")
	if !json.Valid([]byte(data)) {
		return fmt.Errorf("the kernel wrote into the benchmark's result: %.200s", data)
	}
	return os.WriteFile(to, []byte(data), 0o644)
}

// library finds the files in what ldd says.
var library = regexp.MustCompile(`(/\S+) \(0x`)

func benchPayload(ctx context.Context, dir string) (payload, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(dir, "bench")
	if _, err := run(ctx, "go", "build", "-o", binary, "./bench"); err != nil {
		return nil, err
	}
	files := payload{"init": self, "bin/gardu": "bin/gardu", "bin/bench": binary, "etc/passwd": "/etc/passwd", "etc/group": "/etc/group"}
	for _, tool := range benchTools {
		path, err := exec.LookPath(tool)
		if err != nil {
			return nil, err
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
		files["bin/"+tool] = path
		out, err := run(ctx, "ldd", path)
		if err != nil {
			return nil, err
		}
		for _, found := range library.FindAllStringSubmatch(out, -1) {
			real, err := filepath.EvalSymlinks(found[1])
			if err != nil {
				return nil, err
			}
			files[strings.TrimPrefix(found[1], "/")] = real
		}
	}
	return files, nil
}

// sayMeasured tells the host what the benchmark has left, in one line.
func sayMeasured() {
	pages, _ := filepath.Glob(benchResults + "/2*.json")
	for _, page := range pages {
		data, err := os.ReadFile(page)
		var line bytes.Buffer
		if err == nil {
			err = json.Compact(&line, data)
		}
		if err != nil {
			say("read the result: %v", err)
			continue
		}
		say(measured+"%s", line.String())
	}
}
