# What people and CI type. Everything fetched or built goes into target/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo build tools test lint unit system bench test-vm test-package test-beside deb

TOOLS := $(CURDIR)/target/tools
export PATH := $(TOOLS):$(HOME)/.cargo/bin:$(PATH)
# Root is needed to make namespaces and cgroups; as root already, sudo need not be installed.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME)
# The machine's own triple: naming it keeps `+crt-static` away from proc macros (see .cargo/config.toml).
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
BINARY := target/$(TRIPLE)/release/coracle

# Deadlines in the tests are for a machine of a certain speed; a slower one has more time.
SLOWNESS := CORACLE_TEST_SLOWNESS="$${CORACLE_TEST_SLOWNESS:-$$(tests/slowness)}"

help: ## this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: tools build ## build, start a three-node cluster, show what it does
	@$(SUDO) $(BINARY) demo

build: ## the release binary, static
	@cargo build --release --bin coracle
	echo "built $(BINARY)"

tools: ## kubectl, helm and busybox into target/tools
	@tools/fetch $(TOOLS)

test: tools lint ## everything: lint, unit tests, the whole system through the built binary (as root)
	@cargo test --no-run
	status=0
	$(SUDO) env PATH="$$PATH" $(SLOWNESS) cargo test || status=$$?
	tests/tested "$$(tests/about)" $$status
	exit $$status

lint: ## formatting, clippy, documentation, style
	@cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --no-deps --document-private-items
	if command -v vagrant >/dev/null; then # Debian's will do; the providers need not be there
		for dir in . packaging/three-machines; do (cd "$$dir" && vagrant validate --ignore-provider >/dev/null); done
	else
		echo "no vagrant here: the Vagrantfiles are not validated" >&2
	fi

unit: ## unit tests and style only
	@cargo test --lib --test tidy

system: ## whole-system tests through the built binary (as root)
	@$(SUDO) env PATH="$$PATH" $(SLOWNESS) cargo test --test system

bench: tools ## measurements, beside runc and podman where they are installed (as root)
	@cargo build --release --bin coracle
	$(SUDO) env PATH="$$PATH" cargo bench --bench peers

test-vm: tools ## the same tests in a virtual machine: Debian 12, systemd, cgroup v2 (KERNEL=…, CGROUP=v1|hybrid)
	@$(SUDO) env PATH="$$PATH" tests/vm/run

test-package: tools ## the Debian package in that machine: install, demo, restart, purge
	@packaging/deb debug
	$(SUDO) env PATH="$$PATH" tests/vm/package

test-beside: tools ## beside Docker, containerd and libvirt in that machine: they are not disturbed, and do not disturb
	@$(SUDO) env PATH="$$PATH" tests/vm/beside

deb: ## target/debian/coracle_….deb
	@packaging/deb
