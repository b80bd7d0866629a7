# What a person types. `make demo` needs only Go; `make test` installs what it
# needs on Debian or Ubuntu when it runs as root, and names what is missing
# when it does not.

SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(REVISION)
PARALLEL ?= 4
# SQLite is C in the shape of Go. Its memory lies outside of what the race detector
# looks at, so instrumenting it finds nothing and takes four times as long.
RACE := -race '-gcflags=modernc.org/...lib...=-race=false'

.PHONY: help demo check test test-long fuzz bench scale soak lint build packages clean tools-for-tests

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: ## the whole road with 25 simulated devices; needs only Go
	@$(GO) run ./cmd/provisiond demo $(ARGS)

tools-for-tests:
	@deploy/test/needs.sh

check: lint ## what a commit must pass, in two minutes: format, vet, lint, generated files, import rule, dead fields
	$(GO) test -run '$(FRESH)' ./cmd/provisiond ./deploy ./deploy/runbooks ./deploy/grafana/gen ./server/provision

# Generated files are fresh; who may import whom; what is written is read; what the tree holds.
FRESH := ^Test(ImportRule|TheTree|Lines|RunbooksAreUpToDate|DashboardsAreUpToDate|LifecyclePage|FailpointMethods|NothingIsWrittenInVain|Citations)

test: tools-for-tests ## everything, with -race, on SQLite and Postgres
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt these files"; exit 1; }
	$(GO) vet ./...
	$(GO) test $(RACE) -timeout 40m -parallel $(PARALLEL) ./...
	$(GO) test -timeout 20m -run 'TestSimulation|TestReplay' ./server/provision

test-long: tools-for-tests ## the long proofs: 300,000 simulated histories, every kill point, 500 devices; SQLite under the race detector
	$(GO) test -race -timeout 60m -parallel $(PARALLEL) ./store ./server/queue
	$(GO) test -timeout 60m ./server/provision -run 'TestSimulation|TestMutants|TestReplay' -v -sim.seeds=$(or $(SEEDS),300000)
	$(GO) test -timeout 30m -parallel $(PARALLEL) ./server -run TestReplayedHellos
	$(GO) test -tags long -timeout 30m -parallel $(PARALLEL) ./server -run TestLong
	$(GO) test -tags 'long failpoints' -timeout 60m -parallel $(PARALLEL) ./cmd/provisiond/endtoend ./server/provision

fuzz: ## each parser for FUZZTIME (default 30s)
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz'); do \
	    echo "== $$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),30s) -fuzzminimizetime 1x || exit 1; \
	  done; done

bench: tools-for-tests ## figures beside their floors, in one run: about five minutes on an idle machine
	@set -o pipefail; $(GO) test -timeout 10m -run '^$$' -bench . -benchtime $(or $(BENCHTIME),1s) ./server/admit ./server/desk ./store ./amt/hello/receive ./amt/session ./amt/wsman ./certs | grep -vE '^(goos|goarch|cpu|PASS)|no test files'
	@set -o pipefail; $(GO) test -timeout 20m -tags bench -run TestBench -v ./cmd/provisiond/endtoend | grep -vE '^=== '

scale: tools-for-tests ## a million devices on each engine: lists, pages, claims, start; 8 GB of disk for half an hour
	@set -o pipefail; $(GO) test -timeout 120m -tags bench -run TestScale -v ./cmd/provisiond/endtoend | grep -vE '^=== '

soak: tools-for-tests ## 30 minutes of hellos with kill -9, full disk, database restarts
	$(GO) test -tags soak -timeout 60m -run TestSoak -v ./cmd/provisiond/endtoend

lint: ## gofmt, vet and golangci-lint (built once from deploy/tools)
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	$(GO) vet -tags 'failpoints long soak bench' ./cmd/... ./server/...
	$(GO) tool -modfile=deploy/tools/go.mod golangci-lint run ./...

build: ## static binaries in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/provisiond ./cmd/provisiond
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/provctl ./cmd/provctl
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/amtsim ./cmd/amtsim

packages: build ## .deb, .rpm and the Helm chart, tested; as root
	VERSION=$(patsubst v%,%,$(VERSION)) deploy/test/packages.sh

clean:
	rm -rf bin dist
