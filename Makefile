## build        one static binary for this machine
## dist         the same for amd64 and arm64, under dist/
## lint         format, vet, staticcheck, sizes and floors of the code, shell scripts
## test         unit tests, the model, and the real-kernel tests
## unit         vet and the unit tests alone
## model        the loop against a model of the kernel (SEQUENCES=20000)
## kernel       the real-kernel tests alone (RUN=regexp)
## e2e          a real kube-apiserver drives the binary on a real kernel (RUN=regexp)
## drill        roll-outs, crashes and outages under load: no request may fail
## drill-short  the same with small numbers
## demo         the main job, live, in a terminal
## bench        the controller beside its peers, into docs/benchmarks.md
## bench-short  the same at small sizes, nothing written
## fuzz         every fuzz target for FUZZTIME (20s)
## clean        removes what the targets built, but not the downloads
## help         this list
#
# Each target does its own set-up on a fresh Debian machine with Go (root, apt
# and the Go module proxy). `make` alone is `make build`.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
CACHE   := .cache/bin

.PHONY: build dist help lint test unit model kernel e2e drill drill-short demo bench bench-short fuzz clean

build:
	$(GOBUILD) -o lvs-controller .

dist:
	GOARCH=amd64 $(GOBUILD) -o dist/lvs-controller-amd64 .
	GOARCH=arm64 $(GOBUILD) -o dist/lvs-controller-arm64 .

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

# The tools have a module of their own, so that go.mod stays the program's.
lint:
	go build -C test/tools -o $(CURDIR)/$(CACHE)/ tool
	test/tools/lint $(CURDIR)/$(CACHE)

# LVS_REQUIRE_ALL=1: a test that cannot run here fails instead of being skipped.
test: unit model kernel

unit: vm-setup
	go vet ./...
	LVS_REQUIRE_ALL=1 go test -skip '^Test(Kernel|E2E|Bench|Drill)' .

.PHONY: $(CACHE)/lvs.test
$(CACHE)/lvs.test:
	CGO_ENABLED=0 go test -c -o $@ .

# The loop against a model of the kernel: so many random sequences of events.
SEQUENCES := 20000
model:
	go test -run '^TestModel$$' -rapid.checks=$(SEQUENCES) -timeout 20m .

kernel: build vm-setup $(CACHE)/lvs.test
	test/vm/run -timeout 1200 -file lvs-controller -file $(CACHE)/lvs.test -file install/bird.conf -file install/frr.conf \
		-env LVS_KERNEL=1 -env LVS_REQUIRE_ALL=1 -env LVS_BINARY=/work/lvs-controller -env LVS_DRILL \
		-- ./lvs.test -test.run '$(or $(RUN),^TestKernel)' -test.v -test.timeout 1170s

e2e: build vm-setup $(CACHE)/lvs.test
	test/kube/build
	LVS_REQUIRE_ALL=1 LVS_KUBE_BIN=$(CURDIR)/.cache/kube/bin go test ./test/cluster
	go run ./test/e2e -run '$(or $(RUN),^TestE2E)'

drill drill-short: build vm-setup $(CACHE)/lvs.test
	test/kube/build
	go run ./test/e2e -run '$(or $(RUN),^TestDrill)' -pods 0 -timeout $(if $(filter drill,$@),3600,600) \
		-- -env LVS_DRILL=$(if $(filter drill,$@),long,short)

# The compiler and the downloads of the machine's set-up do not wait for each
# other: on a fresh machine that is half a minute.
demo:
	$(MAKE) -j3 build vm-setup $(CACHE)/demo
	test/vm/run -timeout 180 -file lvs-controller -file $(CACHE)/demo -- ./demo -binary /work/lvs-controller

.PHONY: $(CACHE)/demo
$(CACHE)/demo:
	CGO_ENABLED=0 go build -o $@ ./test/demo

# The peer moby/ipvs has a module of its own, so that the controller's depends on
# nothing of it.
bench bench-short: build vm-setup $(CACHE)/lvs.test $(CACHE)/e2e $(CACHE)/moby
	test/kube/build
	go run ./test/bench $(if $(filter bench,$@),-long -doc docs/benchmarks.md)

.PHONY: $(CACHE)/e2e $(CACHE)/moby
$(CACHE)/e2e:
	go build -o $@ ./test/e2e

$(CACHE)/moby:
	cd test/peers/moby && CGO_ENABLED=0 go build -trimpath -o $(CURDIR)/$@ .

# Each fuzz target for FUZZTIME, one after the other, and at the end the names of
# those that fail. A worker that is still busy when the time is over can make the
# run fail with "context deadline exceeded" and without an input: such a target runs
# again, three times at most. A failure with an input, or any other, counts at once.
FUZZTIME := 20s
fuzz: $(CACHE)/fuzz.test
	@targets=$$($< -test.list '^Fuzz') && [ -n "$$targets" ] || { echo "fuzz: no target found" >&2; exit 1; }; \
	log=$$(mktemp); trap 'rm -f "$$log"' EXIT; failed=; \
	for t in $$targets; do \
		for try in 1 2 3; do \
			echo "fuzz: $$t"; \
			if $< -test.run '^$$' -test.fuzz "^$$t\$$" -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 5s \
				-test.fuzzcachedir .cache/fuzz >"$$log" 2>&1; then cat "$$log"; continue 2; fi; \
			cat "$$log"; \
			if grep -q 'Failing input written to' "$$log" || ! grep -q '^ *context deadline exceeded$$' "$$log"; then break; fi; \
		done; \
		failed="$$failed $$t"; \
	done; \
	if [ -n "$$failed" ]; then echo "fuzz: FAILED:$$failed" >&2; exit 1; fi

.PHONY: $(CACHE)/fuzz.test
$(CACHE)/fuzz.test:
	go test -c -fuzz . -o $@ .

.PHONY: vm-setup
vm-setup:
	test/vm/setup

clean:
	rm -rf lvs-controller dist .cache/bin
