package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("vmtest: ")
	if os.Getpid() == 1 {
		guest()
		return
	}
	only := flag.String("kernel", "", "boot only the kernels whose name matches this `regexp`")
	cache := flag.String("cache", "/var/cache/gardu", "`directory` for unpacked kernels")
	limit := flag.Duration("timeout", 12*time.Minute, "for one kernel, from power on to power off")
	verbose := flag.Bool("v", false, "print the whole console")
	flag.Parse()
	filter, err := regexp.Compile(*only)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := host(ctx, filter, *cache, *limit, *verbose); err != nil {
		log.Fatal(err)
	}
}

// host runs every job on every kernel and reports each; it goes on after a failure.
func host(ctx context.Context, filter *regexp.Regexp, cache string, limit time.Duration, verbose bool) error {
	dir, err := os.MkdirTemp("", "gardu-vmtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	payload, err := buildPayload(ctx, dir)
	if err != nil {
		return err
	}
	var failures []error
	for _, series := range series {
		if !filter.MatchString(series) {
			continue
		}
		kernel, err := fetchKernel(ctx, series, cache)
		if err != nil {
			return err
		}
		initrd := filepath.Join(dir, kernel.release+".img")
		if err := writeInitrd(initrd, kernel, payload); err != nil {
			return fmt.Errorf("build the initramfs of %s: %w", kernel.release, err)
		}
		fmt.Printf("== %s\n", kernel.release)
		if err := boot(ctx, kernel, initrd, limit, verbose); err != nil {
			fmt.Printf("== %s: FAIL: %v\n", kernel.release, err)
			failures = append(failures, fmt.Errorf("%s: %w", kernel.release, err))
		}
	}
	return errors.Join(failures...)
}
