# make build   one static binary for this machine
# make dist    the same for amd64 and arm64, under dist/
# make test    unit tests, the model, and the real-kernel tests
# make e2e     a real kube-apiserver drives the binary on a real kernel
# make drill   roll-outs, crashes, outages and reloads under load, at full length:
#              no request may fail; drill-short: the same with small numbers
# make demo    the main job, live, in a terminal
# make bench   ours, its peers and the kernel's own time side by side, into
#              docs/benchmarks.md; bench-short: small sizes, nothing written
#
# Each target does its own set-up on a fresh Debian machine with Go (root, apt
# and the Go module proxy).

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
CACHE   := .cache/bin

.PHONY: build dist test unit model kernel e2e drill drill-short demo bench bench-short fuzz clean

build:
	$(GOBUILD) -o lvs-controller .

dist:
	GOARCH=amd64 $(GOBUILD) -o dist/lvs-controller-amd64 .
	GOARCH=arm64 $(GOBUILD) -o dist/lvs-controller-arm64 .

# LVS_REQUIRE_ALL=1: a test that cannot run here fails instead of being skipped.
test: unit model kernel

unit: build vm-setup
	go vet ./...
	go vet -tags ipvs,bench,plane .
	LVS_REQUIRE_ALL=1 go test . ./test/bench
	LVS_REQUIRE_ALL=1 go test ./test/director -binary $(CURDIR)/lvs-controller

# Compiled tests for the virtual machine: those of the top level by what they need,
# which is their build tag, and those that run the binary.
.PHONY: $(CACHE)/ipvs.test $(CACHE)/bench.test $(CACHE)/plane.test $(CACHE)/director.test
$(CACHE)/ipvs.test $(CACHE)/bench.test $(CACHE)/plane.test: $(CACHE)/%.test:
	CGO_ENABLED=0 go test -c -tags $* -o $@ .

$(CACHE)/director.test:
	CGO_ENABLED=0 go test -c -o $@ ./test/director

# RUN=PATTERN runs only some tests, in kernel, e2e and drill.
PATTERN := $(if $(RUN),-test.run '$(RUN)')

# The loop against a model of the kernel: so many random sequences of events.
SEQUENCES := 20000
model:
	go test -run '^TestModel$$' -rapid.checks=$(SEQUENCES) -timeout 20m .

# LVS_DRILL=long hands over and drains under as much load as the long drills.
kernel: build vm-setup $(CACHE)/ipvs.test $(CACHE)/director.test
	test/vm/run -timeout 1200 -file lvs-controller -file install -file $(CACHE)/ipvs.test -file $(CACHE)/director.test -env LVS_REQUIRE_ALL=1 -env LVS_SEED \
		-- sh -c "code=0; for tests in ./ipvs.test './director.test -group kernel -install install'; do \
		\$$tests -binary /work/lvs-controller $(if $(LVS_DRILL),-size $(LVS_DRILL)) -test.v -test.timeout 1170s $(PATTERN) || code=1; done; exit \$$code"

e2e: build vm-setup $(CACHE)/director.test
	test/kube/build
	LVS_REQUIRE_ALL=1 LVS_KUBE_BIN=$(CURDIR)/.cache/kube/bin go test ./test/cluster
	go run ./test/e2e -run '$(RUN)' -test '$(CACHE)/director.test -group e2e'

drill drill-short: build vm-setup $(CACHE)/director.test
	test/kube/build
	go run ./test/e2e -run '$(RUN)' -pods 0 -timeout $(if $(filter drill,$@),3600,600) \
		-test '$(CACHE)/director.test -group drill -size $(if $(filter drill,$@),long,short)'

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
bench bench-short: build vm-setup $(CACHE)/bench.test $(CACHE)/plane.test $(CACHE)/director.test $(CACHE)/e2e $(CACHE)/moby
	test/kube/build
	go run ./test/bench $(if $(filter bench,$@),-long -doc docs/benchmarks.md)

.PHONY: $(CACHE)/e2e $(CACHE)/moby
$(CACHE)/e2e:
	go build -o $@ ./test/e2e

$(CACHE)/moby:
	cd test/peers/moby && CGO_ENABLED=0 go build -trimpath -o $(CURDIR)/$@ .

# Each fuzz target for FUZZTIME.
FUZZTIME := 20s
fuzz:
	for t in $$(go test -list '^Fuzz' . | grep ^Fuzz); do \
		go test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) . || exit 1; done

.PHONY: vm-setup
vm-setup:
	test/vm/setup

clean:
	rm -rf lvs-controller dist .cache/bin
