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
	"strings"
	"sync"
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
	limit := flag.Duration("timeout", 50*time.Minute, "for one kernel, from power on to power off")
	verbose := flag.Bool("v", false, "print the whole console")
	result := flag.String("bench", "", "measure gardu beside IPVS on the newest kernel, and leave what the benchmark says in this `file`")
	flag.Parse()
	filter, err := regexp.Compile(*only)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if *result != "" {
		err = benchmark(ctx, *cache, *result, *verbose)
	} else {
		err = host(ctx, filter, *cache, *limit, *verbose)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// host runs every job on every kernel, the kernels side by side, and reports each; it goes on after a failure.
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
	var guests sync.WaitGroup
	var failures errorList
	matched := false
	for _, series := range series {
		if !filter.MatchString(strings.ReplaceAll(series, `\`, "")) {
			continue
		}
		matched = true
		kernel, err := fetchKernel(ctx, series, cache, wantedModules)
		if err != nil {
			failures.add(err)
			break
		}
		initrd := filepath.Join(dir, kernel.release+".img")
		if err := writeInitrd(initrd, kernel, payload); err != nil {
			failures.add(fmt.Errorf("build the initramfs of %s: %w", kernel.release, err))
			break
		}
		guests.Go(func() {
			fmt.Printf("== %s\n", kernel.release)
			if _, err := boot(ctx, kernel, initrd, limit, verbose); err != nil {
				fmt.Printf("== %s: FAIL: %v\n", kernel.release, err)
				failures.add(fmt.Errorf("%s: %w", kernel.release, err))
			}
		})
	}
	guests.Wait()
	if !matched {
		failures.add(fmt.Errorf("no kernel is called like %s", filter))
	}
	return errors.Join(failures.errs...)
}

// errorList gathers the errors of guests that run side by side.
type errorList struct {
	mu   sync.Mutex
	errs []error
}

func (l *errorList) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}
