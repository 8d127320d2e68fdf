## build        one static binary for this machine
## dist         the same for amd64 and arm64, under dist/
## release      these, packages (deb, rpm), an image, a list of modules and sums, under dist/
## release-test the release twice, byte for byte; its packages in Debian 12 and 13, updated under load
## release-test-short the first half of it, for amd64 alone
## lint         format, vet, staticcheck, sizes and floors of the code, shell scripts
## test         unit tests, the model, and the real-kernel tests
## unit         vet and the unit tests alone
## model        the loop against a model of the kernel (SEQUENCES=20000)
## race         the tests that run on this machine, with the race detector
## kernel       the real-kernel tests alone (RUN=regexp)
## kernel-unprivileged the same with a controller that is not root's
## kernel-short those of them that depend most on the kernel's version (KERNEL=suite)
## e2e          a real kube-apiserver drives the binary on a real kernel (RUN=regexp)
## drill        roll-outs, crashes and outages under load: no request may fail
## drill-short  the same with small numbers
## soak         inputs that change for up to DURATION (2h), OPERATIONS (1000000): does anything grow?
## soak-short   the same with few
## faults       a fault at every call to the kernel, the host and the API server
## demo         the main job, live, in a terminal
## bench        the controller beside its peers, into docs/benchmarks.md (PART=name)
## bench-short  the same at small sizes, nothing written
## flood        SYN floods: what they do to a director and its clients, as a table
## flood-short  the same with few SYNs: clients have to be answered
## scale        many directors: simulates what breaks, into docs/scale.md (SEED=n)
## scale-api    the load of 20 controllers on a real kube-apiserver, into docs/scale.md
## page         the page at / in a Chromium, before a controller on a real kernel
## tuning       what GRO brings, for docs/tuning.md
## fuzz         every fuzz target for FUZZTIME (20s)
## drawing      docs/architecture.svg, from the text beside it
## man          install/man, from the help and config.toml.example
## clean        removes what the targets built, but not the downloads
## help         this list
#
# Each target does its own set-up on a fresh Debian machine with Go (root, apt
# and the Go module proxy). `make` alone is `make build`.

# What git knows of the source; all of it is empty or "dev" without git. The number of a
# commit has a fixed length, because git's own choice depends on the clone.
VERSION  := $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo dev)
REVISION := $(shell git rev-parse --verify HEAD 2>/dev/null)$(if $(filter %-dirty,$(VERSION)),-modified)
DATE     := $(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
# client-go brings another HTTP/2, and the listener serves HTTP/1.1 alone: the
# tag leaves out the second copy, half a megabyte. The code of NOT_INLINED runs at the start,
# or once for an event: without inlining it is 0.35 MB smaller.
NOT_INLINED := k8s.io/... sigs.k8s.io/... go.yaml.in/... golang.org/x/net/... golang.org/x/text/... golang.org/x/term/... \
	golang.org/x/oauth2/... golang.org/x/time/... github.com/fxamacker/... github.com/json-iterator/... \
	github.com/BurntSushi/... github.com/google/... github.com/jsimonetti/...
# The linker gets what git knows, and the compiler does not ask it: what it notes depends on
# the tags of a clone, and some machines forbid it.
GOBUILD := CGO_ENABLED=0 go build -tags nethttpomithttp2 -trimpath -buildvcs=false $(NOT_INLINED:%=-gcflags=%=-l) \
	-ldflags "-s -w -X main.version=$(VERSION) -X main.revision=$(REVISION) -X main.revisionDate=$(DATE)"
CACHE   := .cache/bin

.PHONY: build dist release release-test release-test-short help lint test unit model race kernel kernel-short kernel-unprivileged kube-setup e2e drill drill-short soak soak-short faults demo bench bench-short flood flood-short scale scale-api page tuning fuzz drawing man clean

build:
	$(GOBUILD) -o lvs-controller .

# The environment may ask for newer processors, or for other flags.
ARCHS := amd64 arm64
dist:
	$(foreach arch,$(ARCHS),GOFLAGS= GOARCH=$(arch) GOAMD64=v1 GOARM64=v8.0 $(GOBUILD) -o dist/lvs-controller-$(arch) . &&) :

# The author of the commit is the maintainer that the packages name. The tools have a module
# apart, so that go.mod stays the program's.
MAINTAINER = $(shell git log -1 --format='%an <%ae>' 2>/dev/null)
release:
	rm -rf dist
	$(MAKE) dist
	go build -C packaging/tools -o $(CURDIR)/$(CACHE)/ tool ./image ./sbom
	VERSION='$(VERSION)' REVISION='$(REVISION)' DATE='$(DATE)' MAINTAINER='$(MAINTAINER)' packaging/build $(CACHE) dist

release-test release-test-short:
	packaging/test $(if $(filter %-short,$@),short)

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

# The tools have a module of their own, so that go.mod stays the program's.
lint:
	go build -C test/tools -o $(CURDIR)/$(CACHE)/ tool
	test/tools/lint $(CURDIR)/$(CACHE)

# LVS_REQUIRE_ALL=1: a test that cannot run here fails instead of being skipped.
test: unit model kernel

# Each micro-benchmark runs once, so that none stops working unseen. The tests inside and outside
# wait most of the time, so they run side by side.
unit: build vm-setup promtool-setup samples-setup unit-setup
	@[ "$$(go env GOARCH)" != amd64 ] || [ "$$(stat -c %s lvs-controller)" -le 16000000 ] || { echo "unit: the binary has more than 16 MB" >&2; exit 1; }
	go vet ./...
	go vet -tags ipvs,bench,plane .
	mkdir -p $(CACHE)
	export LVS_REQUIRE_ALL=1; \
	go test ./test/director -binary $(CURDIR)/lvs-controller >$(CACHE)/unit-director 2>&1 & director=$$!; \
	code=0; go test -bench . -benchmem -benchtime 1x . ./test/bench ./test/plot ./test/scale/... || code=1; \
	wait $$director || code=1; cat $(CACHE)/unit-director; exit $$code

# Compiled tests for the virtual machine: those of the top level by what they need,
# which is their build tag, and those that run the binary.
.PHONY: $(CACHE)/ipvs.test $(CACHE)/bench.test $(CACHE)/plane.test $(CACHE)/director.test
$(CACHE)/ipvs.test $(CACHE)/bench.test $(CACHE)/plane.test: $(CACHE)/%.test:
	CGO_ENABLED=0 go test -c -tags $* -o $@ .

$(CACHE)/director.test:
	CGO_ENABLED=0 go test -c -o $@ ./test/director

# KERNEL=SUITE boots the guests with the kernel of another suite of Debian: trixie has
# Linux 6.12, trixie-backports 7.
export LVS_VM_KERNEL := $(KERNEL)

# RUN=PATTERN runs only some tests, in kernel, e2e and drill. SKIP=PATTERN leaves some out of
# kernel.
PATTERN := $(if $(RUN),-test.run '$(RUN)') $(if $(SKIP),-test.skip '$(SKIP)')

# The loop against a model of the kernel: so many random sequences of events.
SEQUENCES := 20000
model:
	go test -run '^TestModel$$' -rapid.checks=$(SEQUENCES) -timeout 20m .

# Data races, in the tests and in the binary. -short leaves out the tests that give one
# goroutine much to do. The detector needs a C compiler. Both kinds wait most of the time, so
# they run side by side.
race: race-setup vm-setup promtool-setup samples-setup unit-setup
	CGO_ENABLED=1 go build -tags nethttpomithttp2 -race -o $(CACHE)/lvs-controller-race .
	export LVS_REQUIRE_ALL=1 CGO_ENABLED=1; \
	go test -race -timeout 30m ./test/director -binary $(CURDIR)/$(CACHE)/lvs-controller-race >$(CACHE)/race-director 2>&1 & director=$$!; \
	code=0; go test -race -short -timeout 30m . ./test/bench ./test/filegraph || code=1; \
	wait $$director || code=1; cat $(CACHE)/race-director; exit $$code

.PHONY: race-setup compile
race-setup:
	@command -v gcc >/dev/null || { apt-get -qq update; apt-get -qq install -y --no-install-recommends gcc libc6-dev >/dev/null; }

# What the compiler has to do for other targets, into its cache.
compile: $(CACHE)/ipvs.test $(CACHE)/bench.test $(CACHE)/plane.test $(CACHE)/director.test $(CACHE)/datapath.test $(CACHE)/e2e $(CACHE)/moby $(CACHE)/page-guest
	for package in . ./test/bench ./test/filegraph ./test/director; do CGO_ENABLED=1 go test -race -c -o /dev/null $$package || exit 1; done
	CGO_ENABLED=1 go build -tags nethttpomithttp2 -race -o $(CACHE)/lvs-controller-race .

# LVS_DRILL=long hands over and drains under as much load as the long drills.
kernel: build vm-setup $(CACHE)/ipvs.test $(CACHE)/director.test
	test/vm/run -file lvs-controller -- ./lvs-controller version
	test/vm/run -timeout 3600 -file lvs-controller -file install -file docs -file README.md -file config.toml.example -file $(CACHE)/ipvs.test -file $(CACHE)/director.test -env LVS_REQUIRE_ALL=1 -env LVS_SEED \
		-- sh -c "code=0; for tests in ./ipvs.test './director.test -group kernel -install install'; do \
		\$$tests -binary /work/lvs-controller $(if $(LVS_DRILL),-size $(LVS_DRILL)) -test.v -test.timeout 3570s $(PATTERN) || code=1; done; exit \$$code"

# The same with a controller that runs as another user, with CAP_NET_ADMIN and CAP_NET_RAW
# in its ambient set. The tests themselves make namespaces, as root.
kernel-unprivileged: build vm-setup $(CACHE)/director.test
	test/vm/run -timeout 3600 -file lvs-controller -file install -file docs -file README.md -file config.toml.example -file $(CACHE)/director.test -env LVS_REQUIRE_ALL=1 \
		-- ./director.test -group kernel -user 990 -install install -binary /work/lvs-controller -test.v -test.timeout 3570s $(PATTERN)

# The interface, the table and the traffic; not the pairs, whose tests take most time.
kernel-short:
	$(MAKE) kernel RUN='^TestKernel(Golden|LeavesNoGarbage|Flushed|Mark|Table|Traffic|EditsInPlace|DummyWaits|SyncFailover|ScaleMaglev)'

e2e: build vm-setup $(CACHE)/director.test
	test/kube/build
	test/gateways/crds
	@command -v kubectl >/dev/null || { apt-get -qq update; apt-get -qq install -y --no-install-recommends kubernetes-client >/dev/null; }
	LVS_REQUIRE_ALL=1 LVS_KUBE_BIN=$(CURDIR)/.cache/kube/bin go test ./test/cluster
	LVS_KUBE_BIN=$(CURDIR)/.cache/kube/bin $(CACHE)/director.test -group cluster -install install -binary lvs-controller -crds .cache/gateway-api $(PATTERN)
	go run ./test/e2e -timeout 1200 -run '$(RUN)' -test '$(CACHE)/director.test -group e2e'

# The parts that e2e, drill and bench run beside, which each of them builds too.
kube-setup:
	test/kube/build kube-proxy

drill drill-short: build vm-setup $(CACHE)/director.test
	test/kube/build
	test/gateways/crds
	go run ./test/e2e -run '$(RUN)' -pods 0 -timeout $(if $(filter drill,$@),3600,600) \
		-test '$(CACHE)/director.test -group drill -size $(if $(filter drill,$@),long,short)'

# The tests of make unit, with what they count.
faults:
	go test -count=1 -v -run '^Test(Seams|APIFaults)$$' .

# The drawing goes to docs/soak.svg, and the numbers to .cache/soak.txt, for docs/soak.md.
OPERATIONS := 1000000
DURATION := 2h
soak: build vm-setup $(CACHE)/director.test
	test/vm/run -timeout 9000 -file lvs-controller -file $(CACHE)/director.test -out soak.svg:docs/soak.svg -out soak.txt:.cache/soak.txt \
		-- ./director.test -binary /work/lvs-controller -group soak -operations $(OPERATIONS) -duration $(DURATION) -out /work/soak -test.v -test.run '^TestSoak$$' -test.timeout 8900s

soak-short: build vm-setup $(CACHE)/director.test
	test/vm/run -timeout 240 -file lvs-controller -file $(CACHE)/director.test \
		-- ./director.test -binary /work/lvs-controller -group soak -operations 5000 -duration 15s -test.v -test.run '^TestSoak$$' -test.timeout 230s

# The compiler and the downloads of the machine's set-up do not wait for each
# other: on a fresh machine that is half a minute.
demo:
	$(MAKE) -j3 build vm-setup $(CACHE)/demo
	test/vm/run -timeout 180 -file lvs-controller -file $(CACHE)/demo -- ./demo -binary /work/lvs-controller

.PHONY: $(CACHE)/demo
$(CACHE)/demo:
	CGO_ENABLED=0 go build -o $@ ./test/demo

# PART=kernel (native, path, e2e, peers) measures one part again and keeps the others.
# The peer moby/ipvs has a module of its own, so that the controller's depends on
# nothing of it.
bench bench-short: build vm-setup $(CACHE)/bench.test $(CACHE)/plane.test $(CACHE)/director.test $(CACHE)/datapath.test $(CACHE)/e2e $(CACHE)/moby
	test/kube/build kube-proxy
	go run ./test/bench $(if $(filter bench,$@),-long -doc docs/benchmarks.md) $(if $(PART),-part $(PART))
	$(if $(PART),,go run ./test/bench -render >/dev/null)

# The guest is a small director: what a flood takes is a large part of its memory.
flood flood-short: build vm-setup $(CACHE)/datapath.test
	LVS_VM=always test/vm/run -mem 1024 -timeout $(if $(filter flood,$@),3600,240) -file lvs-controller -file $(CACHE)/datapath.test -- \
		./datapath.test -binary /work/lvs-controller -size $(if $(filter flood,$@),long,short) -test.v -test.timeout 1h -test.run '$(or $(RUN),^TestFlood$$)'

.PHONY: $(CACHE)/datapath.test $(CACHE)/e2e $(CACHE)/moby
$(CACHE)/datapath.test:
	CGO_ENABLED=0 go test -c -o $@ ./test/bench/datapath

$(CACHE)/e2e:
	go build -o $@ ./test/e2e

$(CACHE)/moby:
	cd test/peers/moby && CGO_ENABLED=0 go build -trimpath -o $(CURDIR)/$@ .

# The browser's tests have a module of their own, so that go.mod stays the program's.
# Their screenshots are in .cache/page; those of docs/ are wide.png and narrow.png.
page: build vm-setup $(CACHE)/page-guest
	@command -v chromium >/dev/null || { apt-get -qq update; apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; }
	cd test/page/browser && go vet . && go test -count=1 -timeout 1200s . $(if $(RUN),-run '$(RUN)')

.PHONY: $(CACHE)/page-guest
$(CACHE)/page-guest:
	CGO_ENABLED=0 go build -o $@ ./test/page/guest

# What docs/tuning.md says of GRO.
tuning: build vm-setup $(CACHE)/director.test
	test/vm/run -timeout 400 -file lvs-controller -file $(CACHE)/director.test \
		-- ./director.test -binary /work/lvs-controller -group tuning -test.v -test.run '$(or $(RUN),TestTuning)'

# The simulation needs nothing but Go. Its short form is a test of `make unit`.
SEED := 1
scale:
	go run ./test/scale -seed $(SEED) -doc docs/scale.md

scale-api: build
	test/kube/build
	go run ./test/scale -api -doc docs/scale.md

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

# The text in docs/architecture.dot is the source; the drawing is kept too, for readers.
drawing:
	@command -v dot >/dev/null || { apt-get -qq update; apt-get -qq install -y --no-install-recommends graphviz >/dev/null; }
	dot -Tsvg -o docs/architecture.svg docs/architecture.dot

# The manual pages.
man:
	go test -count=1 -run '^TestManPages$$' . -update

.PHONY: vm-setup promtool-setup samples-setup unit-setup
vm-setup:
	test/vm/setup

# The shells whose completions are tried, what gives a unit its score, and what runs the
# scripts of the other init systems.
unit-setup:
	@command -v systemd-analyze >/dev/null && command -v zsh >/dev/null && command -v fish >/dev/null || \
		{ apt-get -qq update; apt-get -qq install -y --no-install-recommends systemd zsh fish >/dev/null; }
	test/init/setup

promtool-setup:
	test/promtool/setup

samples-setup:
	test/keepalived/setup

clean:
	rm -rf lvs-controller dist .cache/bin
