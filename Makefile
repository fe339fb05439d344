PREFIX = /usr/local
CARGO = cargo
TARGET = $${CARGO_TARGET_DIR:-target}

all:
	$(CARGO) build --release

demo: all
	STREW=$(TARGET)/release/strew sh tests/demo.sh

test:
	CARGO=$(CARGO) sh tests/run.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings

bench: all
	STREW=$(TARGET)/release/strew python3 tests/bench/clients.py
	$(CARGO) bench --bench pack
	STREW_BENCH_BLOCKS=1000000 $(CARGO) test --release --lib million -- --nocapture

# Long: networks of up to 100,000 peers, and STREW_SIM_SEEDS small ones drawn from seeds; prints the tables of the
# README.
sim:
	$(CARGO) test --release --test sim -- --include-ignored --nocapture --test-threads=1

# Thirty real peers: what they cost, held against the same thirty in simulation.
crowd:
	$(CARGO) test --test sim crowd -- --include-ignored --nocapture

# A file from twenty real peers behind slow lines, nearer and farther.
sources:
	$(CARGO) test --test cli latencies -- --include-ignored --nocapture

# How small the program is, and how soon it is built from nothing.
budgets:
	$(CARGO) test --test budgets -- --include-ignored --nocapture --test-threads=1

# Long: a million states of a wrecked disk, ten million operations beside a map, two thousand peers killed. The
# seed is printed, and repeats the run if it is given again.
torture:
	STREW_TORTURE_STATES=$${STREW_TORTURE_STATES:-1000000} \
	STREW_TORTURE_OPERATIONS=$${STREW_TORTURE_OPERATIONS:-10000000} \
	STREW_TORTURE_SEED=$${STREW_TORTURE_SEED:-$$(date +%s)} \
	$(CARGO) test --lib store::pack::tests -- --nocapture
	STREW_TORTURE_KILLS=$${STREW_TORTURE_KILLS:-2000} \
	STREW_TORTURE_SEED=$${STREW_TORTURE_SEED:-$$(date +%s)} \
	$(CARGO) test --test cli kills -- --nocapture

install: all
	install -D -m 755 $(TARGET)/release/strew $(DESTDIR)$(PREFIX)/bin/strew
	for page in man/*.[157]; do \
		install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/} || exit; \
	done
	for file in bash:bash-completion/completions/strew zsh:zsh/site-functions/_strew \
		fish:fish/vendor_completions.d/strew.fish; do \
		$(TARGET)/release/strew completion $${file%%:*} | \
			install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/$${file#*:} || exit; \
	done

# The service for systemd, of the program that is installed there.
install-unit:
	$(DESTDIR)$(PREFIX)/bin/strew unit | sed 's|^ExecStart=[^ ]*|ExecStart=$(PREFIX)/bin/strew|' | \
		install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/strew.service

clean:
	$(CARGO) clean

.PHONY: all demo test lint bench sim crowd sources budgets torture install install-unit clean
