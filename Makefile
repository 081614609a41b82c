# Every command of this checkout; `make help` lists them. People, CI and hooks run the same ones.

PYTHON ?= python3
# CC has a default inside make, which tools/check.sh is to see only where somebody chose it.
ifeq ($(origin CC),default)
CC := cc
endif
export PYTHON CC

VENV := .venv
BUILD := .build
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# A stamp says that its step was done, and when; removing .venv removes them all.
STAMP := $(VENV)/.stamps

ENGINE_SOURCES := Cargo.toml Cargo.lock rust-toolchain.toml pyproject.toml \
    $(shell find crates -path '*/fuzz' -prune -o -path '*/tests' -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)
PYTHON_SOURCES := $(shell find python -name '*.py' -o -name '*.pyi' -o -name '*.html' -o -name '*.css' -o -name '*.js')
TOOLS := $(BUILD)/tools/bin
CARGO_DENY := 0.20.2
KIAGATEWAY := 0.1.2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help machine build demo check test lint bench soak accept dist lock clean \
    go-programs packages npm bench-peers test-requirements lint-requirements

help: ## this list
	@echo 'tidegate: first `make demo`, then `make test`.'
	@awk -F ': [^#]*## |:.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: build ## builds tidegate and shows it at work; KEEP=1 leaves it running
	@$(BIN)/tidegate demo $(if $(KEEP),--keep)

build: $(STAMP)/module ## builds tidegate into .venv

check: lint-requirements ## the quick tests: no root, no apt, no Go
	@$(BIN)/python tools/groups.py quick rust python

test: machine ## sets up and runs everything
	@$(PYTHON) tools/groups.py setup quick rust python system interop examples fuzz dist

lint: lint-requirements $(TOOLS)/cargo-deny ## everything that judges the code without running it
	@$(BIN)/python tools/groups.py --keep-going quick clippy types licences stubs shell go

bench: test-requirements bench-peers ## the table of docs/benchmarks.md, measured here
	@$(BIN)/python bench/run.py $(ARGS)

soak: test-requirements bench-peers ## hours of traffic while everything around it breaks
	@$(BIN)/python bench/soak.py $(ARGS)

accept: test-requirements ## writes reference pages and the outputs of golden tests anew; review them like code
	@$(BIN)/python tools/reference.py
	@TIDEGATE_ACCEPT=1 $(BIN)/python -m pytest -q tests/golden

dist: $(STAMP)/wheel ## an sdist and a wheel, in dist/
	@ls -1 dist/*

lock: $(STAMP)/lock ## newer versions into Cargo.lock and requirements/*.txt
	@for name in build run test lint lock; do \
	    echo "requirements/$$name.txt"; \
	    (cd requirements && CUSTOM_COMPILE_COMMAND='make lock' ../$(BIN)/pip-compile --quiet --upgrade \
	        --generate-hashes --strip-extras --allow-unsafe --no-emit-options --output-file $$name.txt $$name.in) \
	    || exit 1; \
	done
	cargo update

clean: ## removes everything that was built here, .venv too
	rm -rf $(VENV) $(BUILD) dist target crates/engine/fuzz/target python/tidegate/_engine*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find python tests tools bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# What stands below is used by the commands above.

machine:
	@sh tools/check.sh

# An environment whose Python has gone, or that came here with a copied folder, is made again.
ifneq ($(shell cat $(STAMP)/venv 2>/dev/null && $(BIN)/python -c 'print("works")' 2>/dev/null),$(CURDIR) works)
.PHONY: $(STAMP)/venv
endif
$(STAMP)/venv: | machine
	@echo 'making the virtual environment $(VENV)'
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMP)
	@echo '$(CURDIR)' >$@

$(STAMP)/%: requirements/%.txt $(STAMP)/venv
	@echo 'installing $<'
	@$(PIP) install --require-hashes -r $<
	@touch $@

$(STAMP)/module: $(STAMP)/build $(STAMP)/run $(ENGINE_SOURCES)
	@echo 'building the engine (the first time takes some minutes)'
	@$(BIN)/maturin develop --release --locked
	@touch $@

test-requirements: $(STAMP)/module $(STAMP)/test
lint-requirements: test-requirements $(STAMP)/lint

$(TOOLS)/cargo-deny: Makefile
	cargo install cargo-deny --version $(CARGO_DENY) --locked --root $(BUILD)/tools
	@touch $@

# The wheel is made from the sdist, so that both are known to work. Its dependencies are those of `make build`; our own
# crates are forgotten first, because an sdist's files look older than what was built from the checkout.
RELEASE_TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
$(STAMP)/wheel: $(STAMP)/module $(PYTHON_SOURCES) README.md LICENSE
	@rm -rf dist
	@cargo clean --quiet --release --target-dir '$(RELEASE_TARGET)' -p tidegate-engine -p tidegate-binding
	@$(BIN)/maturin build --release --locked --sdist --out dist --target-dir '$(RELEASE_TARGET)' \
	    --config 'profile.release.package.tidegate-binding.strip="debuginfo"'
	@touch $@

packages:
	@sh tools/packages.sh tests/packages.txt

go-programs:
	@command -v go >/dev/null || { echo 'go is missing, for the tests in tests/interop: https://go.dev/dl/' >&2; exit 2; }
	@mkdir -p $(BUILD)/interop
	cd tests/interop && go build -o ../../$(BUILD)/interop/ ./...

# npm writes node_modules/.package-lock.json last.
npm: $(patsubst %package.json,%node_modules/.package-lock.json,$(wildcard tests/system/*/package.json))
%/node_modules/.package-lock.json: %/package-lock.json
	@command -v npm >/dev/null || { echo 'npm is missing, for the tests in $*: https://nodejs.org/' >&2; exit 2; }
	cd $* && npm ci --no-audit --no-fund
	@touch $@

bench-peers:
	@sh tools/packages.sh bench/packages.txt
	@mkdir -p $(BUILD)/bench
	bench/peers/gopair/build $(BUILD)/bench
	cd bench/peers/nanoproxy && go build -trimpath -o $(abspath $(BUILD))/bench/nanoproxy .
	cargo install --quiet --locked --root $(BUILD)/bench/kiagateway-$(KIAGATEWAY) --version $(KIAGATEWAY) kiagateway
	@cp $(BUILD)/bench/kiagateway-$(KIAGATEWAY)/bin/kiagateway $(BUILD)/bench/kiagateway
	$(CC) -O2 -o $(BUILD)/bench/responder bench/peers/responder.c
	$(CC) -O2 -o $(BUILD)/bench/lossy bench/peers/lossy.c
