# Everything a fresh Debian 12 machine with root and a Rust toolchain needs. What is missing is installed, from the package
# registries only.
#
#   make demo     the tutorial on a real network of this machine, told with timings
#   make test     what CI runs
#   make lint     its quick part
#   make simulate the pure cores in worlds with faults: SEEDS=10000 of them, or the whole story of one with SEED=7
#   make exhaustive  everything that can happen to leases and epochs in a small world, for DEPTH=4 ticks of its time
#   make coverage how much of the pure cores a thousand of the simulation's worlds reach, line by line
#   make chaos    real faults on real processes on several hosts: RUNS=50 of them, drawn with SEED=7
#   make fuzz     any bytes for what strangers send to the message node, SECONDS=60 for each of TARGETS="message form"
#   make chaos-swarm  Docker Swarm in a partition, for comparison
#   make bench    measurements, as JSON under target/bench/; some: make bench ONLY="warm messages"; the message node also on
#                 PostgreSQL: STORE=postgres
#   make build    aleph and aleph-node in target/release/

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
HOST := x86_64-unknown-linux-gnu
TOOLS := target/tools
RUNSC := $(TOOLS)/runsc
PIP := $(TOOLS)/venv/bin/python -m pip --disable-pip-version-check

# Debian packages by command or file that tells whether they are there: file=package.
DEBIAN := /usr/bin/crun=crun /usr/sbin/runc=runc /usr/bin/mksquashfs=squashfs-tools /usr/bin/mmdebstrap=mmdebstrap /usr/bin/btrfs=btrfs-progs \
	/usr/sbin/nft=nftables /sbin/ip=iproute2 /usr/bin/nsenter=util-linux /bin/mount=mount /usr/bin/gcc=gcc /usr/include/stdio.h=libc6-dev /usr/sbin/mkfs.ext4=e2fsprogs \
	/etc/ssl/certs/ca-certificates.crt=ca-certificates /usr/bin/curl=curl /usr/bin/jq=jq /usr/bin/pgrep=procps \
	/usr/lib/postgresql=postgresql /usr/bin/npm=npm /usr/lib/python3.11/ensurepip/__init__.py=python3-venv
DEBIAN_FUZZ := /usr/bin/g++=g++
DEBIAN_BENCH := /usr/bin/wrk=wrk /usr/sbin/nginx=nginx-light /usr/sbin/haproxy=haproxy /usr/bin/rsync=rsync
DEBIAN_SWARM := /lib/x86_64-linux-gnu/libdevmapper.so.1.02.1=libdevmapper1.02.1

.PHONY: demo test simulate exhaustive coverage fuzz chaos chaos-swarm lint bench build packages packages-fuzz packages-bench packages-swarm runtimes guest examples clean

build: packages guest runtimes
	$(CARGO) build --release --locked -p aleph-cli -p aleph-node -p aleph-sandbox

demo: build examples
	examples/demo.sh

# Lint, unit tests and tests of each crate, then everything together on real processes.
test: packages guest runtimes examples $(RUNSC) $(TOOLS)/oracles $(TOOLS)/aleph-client $(TOOLS)/aleph-sdk $(TOOLS)/schemathesis $(TOOLS)/anvil lint
	$(CARGO) build --locked --workspace --exclude aleph-guest --exclude static-server --exclude bench-program
	$(CARGO) test --locked --workspace --all-features --exclude aleph-tests --exclude aleph-chaos
	$(CARGO) test --locked -p aleph-tests -p aleph-chaos

# Other implementations, which judge ours: packages of the network, its client as it is, and readers of OpenAPI documents.
$(TOOLS)/oracles: tests/oracles/requirements.txt
$(TOOLS)/aleph-client: tests/oracles/aleph-client.txt
$(TOOLS)/aleph-sdk: tests/oracles/aleph-sdk.txt
$(TOOLS)/schemathesis: tests/oracles/schemathesis.txt
$(TOOLS)/oracles $(TOOLS)/aleph-client $(TOOLS)/aleph-sdk $(TOOLS)/schemathesis: | packages
	mkdir -p $(TOOLS)
	rm -rf $@ $@.new
	/usr/bin/python3 -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check -r $< || { rm -rf $@; exit 1; }
	touch $@

# A chain for the tests of payment; only its binary is used.
$(TOOLS)/anvil: tests/chain/package.json tests/chain/package-lock.json | packages
	rm -rf $@ $@.new
	mkdir -p $@.new
	cp $^ $@.new
	cd $@.new && npm ci --ignore-scripts --no-audit --no-fund --silent
	mv $@.new $@
	touch $@

# Deterministic: the same seed tells the same story everywhere.
SEEDS ?= 10000
simulate:
	$(CARGO) run --release --locked --quiet -p aleph-simulation -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) \
		$(if $(TRAP),--trap $(TRAP))

# One lease lasts two ticks and some. A tick more takes about seven times as long, and as much memory.
DEPTH ?= 3
exhaustive:
	DEPTH=$(DEPTH) $(CARGO) test --release --locked --quiet -p aleph-simulation --test exhaustive -- \
		--ignored --nocapture deeper

# Its tool reads what rustc's instrumentation writes by itself: LLVM's own tools in Debian are too old for it.
CORES := crates/lease/src/* crates/scheduler/src/core/* crates/compute-node/src/core/* crates/sandbox/src/supervisor/core.rs \
	crates/volumes/src/core/program.rs crates/volumes/src/replication/core.rs
coverage: $(TOOLS)/bin/cargo-tarpaulin
	mkdir -p target/coverage
	PATH=$(abspath $(TOOLS)/bin):$$PATH $(CARGO) tarpaulin --engine llvm --skip-clean --locked -p aleph-simulation --test seeds \
		$(patsubst %,--include-files '%',$(CORES)) --timeout 1800 --target-dir target/coverage --output-dir target/coverage \
		--out Stdout --out Lcov

$(TOOLS)/bin/cargo-tarpaulin:
	$(CARGO) install --quiet --locked --root $(TOOLS) --version 0.37.5 cargo-tarpaulin

# The corpus grows under target/fuzz/; what fails is kept in fuzz/artifacts/. The tests of the message node begin with the same
# seeds. Without a sanitizer, which would need another compiler than the one that everything else is built with.
SECONDS ?= 60
TARGETS ?= message query form car frames
fuzz: packages-fuzz $(TOOLS)/bin/cargo-fuzz
	cp Cargo.lock fuzz/Cargo.lock
	for target in $(TARGETS); do \
		mkdir -p target/fuzz/corpus/$$target; \
		PATH=$(abspath $(TOOLS)/bin):$$PATH RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$target \
			target/fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(SECONDS) -print_final_stats=1 || exit 1; \
	done

$(TOOLS)/bin/cargo-fuzz:
	$(CARGO) install --quiet --locked --root $(TOOLS) --version 0.13.2 cargo-fuzz

# Programs run exactly once, whatever dies, hangs or cannot be reached: JSON and the logs of failures under target/chaos/.
RUNS ?= 50
chaos: build
	$(CARGO) build --release --locked -p aleph-chaos
	ALEPH_BIN_DIR=$(abspath target/release) target/release/aleph-chaos --runs $(RUNS) $(if $(SEED),--seed $(SEED)) \
		$(if $(FAULTS),--only "$(FAULTS)")

# The comparison: a partition around the worker that runs a service of one replica.
SWARM_RUNS ?= 3
PARTITION ?= 60
HEARTBEAT ?= 5
chaos-swarm: packages-swarm $(TOOLS)/docker $(TOOLS)/swarm-probe
	tests/chaos/swarm/run.sh $(abspath $(TOOLS)/docker) $(TOOLS)/swarm-probe $(SWARM_RUNS) $(PARTITION) $(HEARTBEAT)

# Unpacked, not installed: the package would start a daemon that changes the machine's firewall.
$(TOOLS)/docker: | packages-swarm
	rm -rf $@ $@.new
	mkdir -p $@.new
	cd $@.new && { apt-get download -qq docker.io containerd || { apt-get update -qq && apt-get download -qq docker.io containerd; }; }
	for package in $@.new/*.deb; do dpkg-deb --extract $$package $@.new; rm $$package; done
	mv $@.new $@

# gVisor, unpacked as well. The release's own package is too old, so it comes from the backports of wherever this machine's packages
# come from; nothing of the machine's own lists is changed.
$(RUNSC): | packages
	rm -rf $@ $@.new
	mkdir -p $@.new/sources $@.new/lists/partial $@.new/cache/archives/partial
	scripts/backports.sh > $@.new/sources/backports.sources
	cd $@.new && apt="-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$$PWD/sources -o Dir::State::lists=$$PWD/lists \
		-o Dir::Cache=$$PWD/cache -o APT::Sandbox::User=root" && apt-get $$apt update && apt-get $$apt download runsc
	dpkg-deb --extract $@.new/runsc_*.deb $@.new
	rm -r $@.new/runsc_*.deb $@.new/sources $@.new/lists $@.new/cache
	mv $@.new $@

$(TOOLS)/swarm-probe: tests/chaos/swarm/probe.rs
	mkdir -p $(@D)
	rustc -O --edition 2024 --target $(HOST) -C target-feature=+crt-static -o $@ $<

lint: $(TOOLS)/bin/cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(TOOLS)/bin/cargo-deny --locked --all-features --log-level error check bans licenses sources

# Checks what comes in with dependencies (deny.toml).
$(TOOLS)/bin/cargo-deny:
	$(CARGO) install --quiet --locked --root $(TOOLS) --version 0.20.2 cargo-deny

packages:
	@scripts/install-packages $(DEBIAN)

packages-fuzz: packages
	@scripts/install-packages $(DEBIAN_FUZZ)

packages-bench: packages
	@scripts/install-packages $(DEBIAN_BENCH)

packages-swarm: packages
	@scripts/install-packages $(DEBIAN_SWARM)

# The init and the ASGI server, brought into every sandbox.
guest: target/guest/aleph-init target/guest/asgi.py target/guest/python/.complete

GUEST_SOURCES := $(shell find crates/guest crates/unix-stream -name '*.rs' -o -name Cargo.toml) Cargo.lock
target/guest/aleph-init: $(GUEST_SOURCES)
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target $(HOST) -p aleph-guest
	install -D -m 755 target/$(HOST)/release/aleph-init $@

target/guest/asgi.py: crates/guest/python/asgi.py
	install -D -m 644 $< $@

target/guest/python/.complete: crates/guest/python/requirements.txt | $(TOOLS)/venv
	rm -rf $(@D)
	$(PIP) install --quiet --no-deps --require-hashes --only-binary :all: --implementation py --abi none --platform any \
		--python-version 3.11 --target $(@D) -r $<
	rm -rf $(@D)/bin
	chmod -R a+rX target/guest
	touch $@

$(TOOLS)/venv: | packages
	mkdir -p $(TOOLS)
	/usr/bin/python3 -m venv $@.new
	rm -rf $@
	mv $@.new $@

# Measurements beside what they should be compared with; all of them, or some: make bench ONLY="warm messages".
ONLY ?=
bench: build packages-bench examples target/bench-program/bench-program $(TOOLS)/bench $(RUNSC)
	$(CARGO) build --release --locked -p aleph-bench
	ALEPH_BIN_DIR=$(abspath target/release) target/release/aleph-bench $(ONLY) $(if $(STORE),--store $(STORE))
	$(if $(ONLY),,$(CARGO) bench --locked -p aleph-sandbox --features client --bench deadline)

# What the runtime image and the sandbox have, for the host: twice, as one list names packages that the other has as well.
$(TOOLS)/bench: runtimes/python3/requirements.txt crates/guest/python/requirements.txt | packages
	mkdir -p $(TOOLS)
	rm -rf $@
	/usr/bin/python3 -m venv $@
	for list in $^; do $@/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary :all: -r $$list || { rm -rf $@; exit 1; }; done
	touch $@

# The static binary among the examples.
examples: target/examples/static-server/static-server

target/examples/static-server/static-server: examples/static-server/src/main.rs
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target $(HOST) -p static-server
	install -D -m 755 target/$(HOST)/release/static-server $@

# What is measured behind proxies: as static as the example.
target/bench-program/bench-program: benches/program/src/main.rs
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target $(HOST) -p bench-program
	install -D -m 755 target/$(HOST)/release/bench-program $@

# Runtime images, built once.
runtimes: target/runtimes/python3.squashfs target/runtimes/minimal.squashfs

target/runtimes/python3.squashfs: runtimes/python3/build.sh runtimes/python3/requirements.txt runtimes/python3/preload.py | packages $(TOOLS)/venv
	mkdir -p $(@D)
	runtimes/python3/build.sh $@ $(abspath $(TOOLS)/venv/bin/python) -m pip --disable-pip-version-check

target/runtimes/minimal.squashfs: runtimes/minimal/build.sh | packages
	mkdir -p $(@D)
	runtimes/minimal/build.sh $@

clean:
	rm -rf target
