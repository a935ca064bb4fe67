# gardu. `make` alone lists the targets. On Debian 12 with Go, git and make nothing else is needed beforehand:
# a target installs the packages that it misses (as root).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED := 0
export GOFLAGS ?= -buildvcs=false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# What packages are called: the tag, or a number that grows from commit to commit.
PACKAGE_VERSION ?= $(subst -,~,$(patsubst v%,%,$(shell git describe --tags --exact-match 2>/dev/null || git log -1 --date=format:%Y%m%d%H%M%S --format=0.0.0+%cd.%h 2>/dev/null || echo 0.0.0)))
ARCHES ?= amd64 arm64
FUZZTIME ?= 20s
PREFIX ?= /usr/local
BASE ?= HEAD~1

# Debian packages by use. clang is pinned: the committed objects are those of clang-19.
GENERATE_PACKAGES := clang-19 llvm-19 libbpf-dev linux-libc-dev
TEST_PACKAGES := chromium-headless-shell curl iperf3 iproute2 iputils-ping nfdump nftables nginx-light openssh-client openssh-server prometheus sqlite3 systemd tshark wrk xdp-tools
PACKAGE_PACKAGES := rpm
BENCH_PACKAGES := haproxy iperf3 iproute2 ipset ipvsadm nfdump nftables nginx-light wrk xdp-tools
VM_PACKAGES := qemu-system-x86 xz-utils

# The race detector needs cgo, and with it Go can't change the privileges of all threads: the daemon's tests of these are not among them.
RACE := ./ctl/journal ./ctl/api ./ctl/api/client ./ctl/event ./ctl/lb/health ./ctl/flow/export/... ./ctl/reconcile
RACE_DAEMON := Event|LogLevel|Token|TestRun|TestReload|TestApply|TestHealth|TestConfirm|TestRollback|TestDrain|TestOrders|TestExports
RACE_PACKAGES := gcc libc6-dev

# What `make generate` writes; committed, so that a build needs no clang.
GENERATED := '*_bpfel.go' '*_bpfel.o' ctl/abi/types.go ctl/abi/maps.go bench/count/instructions.txt

.PHONY: help
help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## see all of it on this machine alone, in network namespaces of its own (root)
	bin/gardu demo

.PHONY: test
test: deps-test build lint ## run every test; as root nothing is skipped
	go run .ci/gotest.go -allow .ci/skips.txt ./...

.PHONY: race
race: deps-race ## the race detector on packages in which many goroutines meet (needs gcc)
	CGO_ENABLED=1 go test -race -short -count=1 $(RACE)
	CGO_ENABLED=1 go test -race -short -count=1 -run '$(RACE_DAEMON)' ./ctl/daemon

.PHONY: build
build: ## build bin/gardu: one static binary, without clang
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/gardu ./ctl/cmd/gardu

.PHONY: lint
lint: ## go vet and gofmt
	go vet ./...
	go vet -tags vm ./ctl/e2e
	go vet .ci/gotest.go
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt these: $$unformatted" >&2; exit 1; fi

.PHONY: generate
generate: deps-generate ## compile the eBPF C and regenerate the Go that belongs to it (clang-19)
	go generate ./...

.PHONY: generate-check
generate-check: generate ## regenerate and fail when the committed files differ
	git diff --exit-code --stat -- $(GENERATED)
	@echo "generated files are what their sources say"

.PHONY: package
package: deps-package ## build .deb and .rpm into dist, for each of ARCHES
	configs/package/build $(PACKAGE_VERSION) dist $(ARCHES)

.PHONY: test-package
test-package: deps-test deps-package ## install, upgrade under traffic and remove the .deb and the .rpm, in a root of their own
	for version in 0.0.1 0.0.2; do QUICK=1 configs/package/build $$version dist/test $$(go env GOHOSTARCH); done
	QUICK=1 KINDS=deb configs/package/build 0.0.2 dist/test/arm64 arm64
	GARDU_PACKAGES=$(CURDIR)/dist/test go test -count=1 -tags packages -run 'TestPackage|TestRPM|TestImage' ./ctl/e2e

.PHONY: fuzz
fuzz: build ## a million packets through model and programs, a million translations, then every fuzz target for FUZZTIME
	GARDU_SEED=$${GARDU_SEED:-$$(date +%s)} GARDU_FUZZ=1000000 go test -count=1 -timeout 60m -run TestModelAndProgramsAgree -v ./ctl/explain
	GARDU_NAT=1000000 go test -count=1 -timeout 60m -run TestTranslationsAreUnique -v ./ctl/dataplane
	.ci/fuzz $(FUZZTIME)

.PHONY: test-vm
test-vm: deps-vm build ## boot Debian's 6.1 and 6.12 kernels in QEMU: load, attach, packet tests, demo
	go run ./ctl/vmtest

.PHONY: bench
bench: deps-bench build ## gardu beside its peers: cost, live, control plane, into bench/results (BENCH=quick: a short look, printed only)
	go run ./bench $(if $(filter quick,$(BENCH)),-quick -o '')

.PHONY: bench-vm
bench-vm: deps-bench deps-vm build ## gardu beside IPVS, on Debian's newest kernel in QEMU, as ratios, into bench/results; ten minutes
	go run ./ctl/vmtest -bench bin/bench-vm.json
	go run ./bench -from bin/bench-vm.json

.PHONY: bench-check
bench-check: deps-bench ## compare a commit (BASE=HEAD~1) with this tree in turns, and fail when packets cost more than before
	go run ./bench -check $(BASE)

.PHONY: install
install: build ## copy bin/gardu to PREFIX/bin, and its systemd unit
	install -D -m 0755 bin/gardu $(DESTDIR)$(PREFIX)/bin/gardu
	install -D -m 0644 configs/systemd/gardu.service $(DESTDIR)/etc/systemd/system/gardu.service

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist

.PHONY: deps deps-test deps-race deps-generate deps-vm deps-bench deps-package
deps: ## install every package that some target needs and this machine misses
	@.ci/deps $(GENERATE_PACKAGES) $(TEST_PACKAGES) $(RACE_PACKAGES) $(VM_PACKAGES) $(BENCH_PACKAGES) $(PACKAGE_PACKAGES)
deps-test:
	@.ci/deps $(TEST_PACKAGES)
deps-race: deps-test
	@.ci/deps $(RACE_PACKAGES)
deps-generate:
	@.ci/deps $(GENERATE_PACKAGES)
deps-vm:
	@.ci/deps $(VM_PACKAGES)
deps-bench:
	@.ci/deps $(BENCH_PACKAGES)
deps-package:
	@.ci/deps $(PACKAGE_PACKAGES)
