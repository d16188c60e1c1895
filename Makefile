# What one does with this project. `make` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.NOTPARALLEL:

SAMPLE ?= samples/kvcluster.yaml
export KV_KIND_NAME ?= kvcluster
# Programs and scripts of the tests, and what they write: redis-cli is also for you to connect with.
TOOLS := redis-tools redis-server e2fsprogs
# The settings for the kind cluster: KUBECONFIG, and kubectl, helm and kind on PATH.
KIND_ENV = eval "$$(e2e/kind/cluster env)"
BIN = $${CARGO_TARGET_DIR:-target}/release

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

##@ Run

.PHONY: programs
programs: # what users run, without the measuring programs
	cargo build --release --locked -p kv-node -p kv-operator

.PHONY: build
build: ## Build the programs, optimised
	cargo build --release --locked --bins

.PHONY: up
up: programs tools ## Run the sample cluster as local processes, until Ctrl-C (DETACH=1: in the background)
	@$(BIN)/kv-operator local up -f $(SAMPLE) $(if $(DETACH),--detach)

.PHONY: down
down: programs ## Stop the local cluster (PURGE=1: and delete its data)
	@$(BIN)/kv-operator local down $(if $(PURGE),--purge)

.PHONY: kind-up
kind-up: ## Run operator and sample cluster on a kind cluster, made if needed
	@e2e/kind/cluster up
	KV_PROFILE=release e2e/kind/images
	e2e/kind/deploy $(SAMPLE)

.PHONY: kind-down
kind-down: ## Delete the kind cluster
	@e2e/kind/cluster down

.PHONY: images
images: ## Build the images, and load them into the kind cluster if there is one
	@KV_PROFILE=release e2e/kind/images

##@ Check

.PHONY: test
test: test-local test-kind ## Run every test

.PHONY: test-local
test-local: tools ## Run the tests that need no Kubernetes: unit, property and process tests
	cargo build --locked --workspace --all-targets
	cargo test --locked --workspace

.PHONY: test-kind
test-kind: ## Run the end-to-end tests on a kind cluster, made if needed
	e2e/kind/cluster up
	e2e/kind/images
	e2e/kind/deploy
	$(KIND_ENV)
	cargo build --locked --workspace --bins --examples # kubectl-kv, where the images were built by docker
	cargo test --locked --workspace --features kv-e2e/kind --test 'kind*' -- --test-threads=1

.PHONY: lint
lint: ## Check format, clippy, dependencies and scripts
	cargo fmt --all --check
	cargo fmt --manifest-path node-image/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	scripts/deny
	scripts/shell-lint

.PHONY: fuzz
fuzz: ## Fuzz the node, with a nightly toolchain: each fuzzer for FUZZ_SECONDS (600)
	scripts/fuzz

.PHONY: bench
bench: build tools ## Measure a node beside Valkey, and write docs/performance.md (QUICK=1: in 3 minutes, print only)
	KV_PEER=$$(scripts/peer)
	export KV_PEER
	$(BIN)/kv-e2e bench peer $(if $(QUICK),--quick,--write docs/performance.md)

.PHONY: bench-faults
bench-faults: build tools ## Measure the faults of a local cluster; the output is for docs/performance.md
	$(BIN)/kv-e2e bench local

.PHONY: bench-sentinel
bench-sentinel: build tools ## Measure failover beside that of Valkey with three sentinels
	KV_PEER=$$(scripts/peer)
	export KV_PEER
	$(BIN)/kv-e2e bench sentinel

.PHONY: bench-kind
bench-kind: build ## Measure the faults of a cluster on kind
	e2e/kind/cluster up
	KV_PROFILE=release e2e/kind/images
	e2e/kind/deploy
	$(KIND_ENV)
	$(BIN)/kv-e2e bench kind

.PHONY: crd
crd: ## Generate crds/ and the chart's CRD from the Rust types
	cargo build --locked -p kv-operator
	$${CARGO_TARGET_DIR:-target}/debug/kv-operator crd >crds/kvclusters.yaml
	$${CARGO_TARGET_DIR:-target}/debug/kv-operator crd --template >charts/kvcluster/templates/crd.yaml

.PHONY: tools
tools:
	@scripts/apt-install $(TOOLS)
