package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// mark begins the guest's lines that are for the host; the rest of the console is shown only on failure.
const mark = "vmtest: "

// Last words of the guest.
const (
	allPassed  = "all passed"
	someFailed = "some failed"
)

// boot runs a kernel until it powers off, prints its results as they come, and returns the console's text. One host thread emulates both CPUs: with
// one each, a CPU may still run code that the other one has patched, as the kernel does where XDP programs are called, and
// then it meets a breakpoint that is no longer there.
func boot(ctx context.Context, k kernel, initrd string, limit time.Duration, verbose bool) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max",
		"-smp", "2", "-m", "2048", "-nographic", "-no-reboot", "-nic", "none", "-kernel", k.image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off")
	console, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return "", err
	}
	last, said := follow(console, k.release, verbose)
	err = cmd.Wait()
	took := time.Since(start).Round(100 * time.Millisecond)
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("not done after %s: %w", took, context.Cause(ctx))
	case err != nil:
		err = fmt.Errorf("qemu: %w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	case last == someFailed:
		err = errors.New("a job failed")
	case last != allPassed:
		err = errors.New("the guest ended without a result")
	default:
		fmt.Printf("== %s: ok, %s\n", k.release, took)
		return said, nil
	}
	if !verbose {
		os.Stdout.WriteString(said)
	}
	return said, err
}

// follow reads the console to its end: the guest's last line for the host, and everything.
func follow(console io.Reader, release string, verbose bool) (last, said string) {
	var all strings.Builder
	lines := bufio.NewReader(console)
	for {
		line, err := lines.ReadString('\n')
		all.WriteString(line)
		if verbose {
			os.Stdout.WriteString(line)
		}
		if at := strings.Index(line, mark); at >= 0 {
			last = strings.TrimSpace(line[at+len(mark):])
			if !verbose && !strings.HasPrefix(last, measured) {
				fmt.Printf("   %s: %s\n", release, last)
			}
		}
		if err != nil {
			return last, all.String()
		}
	}
}
