# `make` alone tells what there is.

# sudo has a PATH of its own, which does not know where the archive of go.dev is unpacked.
export PATH := $(PATH):/usr/local/go/bin
GO       ?= go
FUZZTIME ?= 30s
# For bench: BENCH=Decode, and COUNT=10 for benchstat.
BENCH    ?= .
COUNT    ?= 1

SYSTEMS  := linux windows darwin
ARCHS    := amd64 arm64
# One way to compile for all that does not run, so that vet, build and lint share what is in the build cache.
COMPILE  := CGO_ENABLED=0 GOFLAGS="$(strip $(GOFLAGS) -trimpath)"

export GO FUZZTIME

.DEFAULT_GOAL := help
.PHONY: help needs-go deb test-deb zip man run demo test test-fast test-web test-windows check static fmt vet lint tidy bench fuzz build install uninstall deps clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
		while IFS='|' read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done

# Before anything is installed or built.
needs-go:
	@command -v "$(GO)" >/dev/null || { \
		echo "Go is needed and not found: install Go 1.26 or newer from https://go.dev/dl" >&2; \
		test -z "$$SUDO_USER" || echo "or, if it is sudo that hides yours: sudo make $(MAKECMDGOALS) PATH=\"\$$PATH\"" >&2; \
		exit 1; }
	@have=$$("$(GO)" version | sed -E 's/^go version (go[^ ]*).*/\1/'); \
		printf '%s\n' go1.26 "$$have" | sort -VC || { \
		echo "Go 1.26 or newer is needed, and $$(command -v "$(GO)") is $$have: get one from https://go.dev/dl" >&2; exit 1; }

run: bin/refd ## run refd on this machine with the default config: it observes and blocks nothing (root)
	@test "$$(id -u)" = 0 || { echo "refd needs root: sudo make run" >&2; exit 1; }
	bin/refd run

demo: needs-go ## a whole network of namespaces, with refd deciding what real programs may do (root)
	@test "$$(id -u)" = 0 || { echo "the demo makes network namespaces and needs root: sudo make demo" >&2; exit 1; }
	@scripts/deps.sh
	$(GO) run ./internal/demo

test: needs-go fmt ## all tests with the race detector; as root nothing is skipped
	@test "$$(id -u)" != 0 || scripts/deps.sh
	@scripts/test.sh

test-windows: needs-go ## the tests of the Windows build, under Wine, which is installed if missing (root, for two uplinks and that)
	@scripts/test-windows.sh

test-web: needs-go ## a browser looks at the web page of a refd in a network of its own (root)
	@scripts/deps.sh
	WEIR_CI=1 $(GO) test -race -run TestIntegrationWeb ./internal/e2e

test-fast: ## tests without the race detector and without what -short leaves out
	$(GO) test -short ./...

check: static ## everything a submission must pass
	@$(MAKE) --no-print-directory test

static: fmt vet build lint tidy ## what check does without running tests

fmt:
	@scripts/fmt.sh

vet: ## go vet, tests included, as each system sees the code
	@set -e; for os in $(SYSTEMS); do echo "vet $$os"; $(COMPILE) GOOS=$$os $(GO) vet ./...; done
	@echo "vet windows/arm64"; $(COMPILE) GOOS=windows GOARCH=arm64 $(GO) vet ./...

lint: ## golangci-lint, at the version of internal/tools/go.mod, on the code of the systems we implement
	@scripts/lint.sh linux windows

tidy: ## fails if go.mod or go.sum are not what the code needs
	$(GO) mod tidy -diff

bench: ## Go benchmarks: BENCH=pattern COUNT=n
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./...

fuzz: ## every fuzz target for FUZZTIME each
	@scripts/fuzz.sh

build: ## refd for every system into bin/, and every package as each system sees it
	@set -e; for os in $(SYSTEMS); do for arch in $(ARCHS); do \
		ext=; test $$os != windows || ext=.exe; \
		echo "build $$os/$$arch"; \
		export GOOS=$$os GOARCH=$$arch; \
		$(COMPILE) $(GO) build ./...; \
		$(COMPILE) $(GO) build -ldflags '-s -w' -o bin/refd-$$os-$$arch$$ext ./cmd/refd; \
	done; done

# Not a file that make could judge: the Go build cache knows better what is new.
.PHONY: bin/refd
bin/refd: needs-go
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/refd ./cmd/refd

# DESTDIR is for packagers: then nothing is started or stopped.
install: bin/refd ## refd and its systemd unit onto this machine; `systemctl enable --now refd` starts it (root)
	install -D -m 0755 bin/refd $(DESTDIR)/usr/local/bin/refd
	install -D -m 0644 cmd/refd/refd.service $(DESTDIR)/etc/systemd/system/refd.service
	@test -n "$(DESTDIR)" || ! test -d /run/systemd/system || systemctl daemon-reload

man: bin/refd ## the manual page of refd, into bin/
	bin/refd man > bin/refd.8

deb: needs-go ## a Debian package of refd, into bin/
	@scripts/deb.sh

test-deb: needs-go ## installs, upgrades and removes the Debian package in a root of its own (root)
	@scripts/test-deb.sh

zip: needs-go ## refd for Windows with its documentation, into bin/
	@scripts/zip.sh

uninstall: ## undoes install, and removes what refd left in the packet filter (root)
	@test -n "$(DESTDIR)" || ! test -d /run/systemd/system || ! test -e /etc/systemd/system/refd.service || systemctl disable --now refd
	@test -n "$(DESTDIR)" || ! test -x /usr/local/bin/refd || /usr/local/bin/refd cleanup
	rm -f $(DESTDIR)/usr/local/bin/refd $(DESTDIR)/etc/systemd/system/refd.service
	@test -n "$(DESTDIR)" || ! test -d /run/systemd/system || systemctl daemon-reload

deps: ## the Debian packages that tests and demo use, if missing (root)
	@scripts/deps.sh

clean: ## remove what was built
	rm -rf bin
	$(GO) clean -testcache
