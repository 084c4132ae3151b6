# HALops. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
CACHE := $(or $(HALOPS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/halops)
# As stages and servers have it; a comment in the line would leave its space in the value.
export GOMP_SPINCOUNT := 10000
export PYTHONDONTWRITEBYTECODE :=  # libraries are compiled once, not at every start

.PHONY: help setup setup-test demo test test-fast test-cluster check chart soak controls lock bench-merge bench-serving bench-train bench-startup control cluster cluster-down clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/uv: requirements/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "HALops needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv || { echo 'no venv module: apt-get install python3-venv' >&2; exit 1; }
	$(BIN)/pip install --quiet --require-hashes -r requirements/uv.txt
	@touch $@

.venv/demo: .venv/uv requirements/demo.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/demo.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/demo requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

setup: .venv/demo ## Make the virtual environment that the demo needs

setup-test: .venv/dev ## Set up all that the tests need: tools, llama.cpp, versitygw, helm, Chromium
	tools/chromium.sh
	tools/versitygw.sh
	tools/kustomize.sh
	tools/kube_schemas.sh
	for program in helm helm-unittest helm-docs helm-schema; do tools/helm.sh $$program || exit; done
	$(BIN)/python -m halops.llamacpp build

demo: .venv/demo ## Fine-tune, verify and serve a real small model, and show what it learned
	@tools/demo.sh

# Fast tests first, each test once. Every worker has one thread: on two cores two workers are faster than two threads.
# Files go to the workers in this order, those that take longest first, so that neither waits for the other in the end.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
	--cov=halops --cov-append --cov-report= tests/e2e tests/stages tests/unit tests/report
test: setup-test ## Set up what is needed and run every test, with coverage
	rm -f .coverage .coverage.*
	$(PYTEST) -m "not slow"
	$(PYTEST) -m slow --durations=15
	$(MAKE) --no-print-directory test-cluster
	$(BIN)/coverage report --skip-covered --fail-under=90

# One process: its faults kill the API server under everybody. Without root the tests say that they are skipped, and why.
test-cluster: .venv/dev ## Runs on a real two-node Kubernetes: chain, faults, refusals, rights (root)
	[ "$$(id -u)" != 0 ] || { $(BIN)/python -m tools.cluster build && tools/test-images.sh; }
	$(BIN)/python -m pytest -q tests/cluster --maxfail=3 --durations=15 --cov=halops --cov-append --cov-report=

test-fast: .venv/dev ## The unit tests alone: seconds
	$(BIN)/python -m pytest tests/unit -q -n 2 -m "not slow"

check: .venv/dev ## Lint, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chart: ## Write the inference chart's schema and README from its values
	cd helm/halops-inference && $$(../../tools/helm.sh helm-schema) && $$(../../tools/helm.sh helm-docs) --sort-values-order file

cluster: .venv/demo ## Start the test cluster: a two-node Kubernetes in network namespaces, built on first use (root)
	@$(BIN)/python -m tools.cluster up

cluster-down: .venv/demo ## Take the test cluster down; nothing of it stays but its logs
	@$(BIN)/python -m tools.cluster down

soak: setup-test ## The long tests: many kills, many faults
	$(BIN)/python -m pytest tests/soak -q --durations=5

controls: setup-test ## Take each safeguard out of a copy of the tree, and see a test fail without it
	$(BIN)/python tools/controls.py

bench-merge: .venv/dev ## Merge at Qwen2.5-7B's size: ours, PEFT and cp, in one run (45 GB of disk)
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m bench.merge

BENCH_BASE = --base /tmp/bench-train/qwen2-28
BENCH_BOTH = --dropout 0,0.05
bench-train: .venv/dev ## Training on this GPU: ours, TRL + Liger and Unsloth, an hour and a half and 45 GB of disk; ARGS="--cells 1024": those alone
	$(BIN)/python -m bench.train.kernels
	-$(BIN)/python -m bench.train $(or $(ARGS),$(BENCH_BOTH))
ifndef ARGS
	-$(BIN)/python -m bench.train.longest ours $(BENCH_BASE) --out bench-train.jsonl
	-$(BIN)/python -m bench.train.longest unsloth $(BENCH_BASE) --low 4096 --high 16384 --out bench-train.jsonl
	$(BIN)/python -m bench.train.equality $(BENCH_BASE) --out bench-train-equality.jsonl
endif
	$(BIN)/python -m bench.train.table bench-train.jsonl --plot docs/performance.svg

MODEL ?= $(shell ls -t .halops/runs/*/convert/attempts/*/*-f16.gguf 2>/dev/null | grep -v adapter | head -1)
bench-serving: .venv/demo ## llama-server by the chart beside llama-bench, on the last run's F16 file (or MODEL=FILE)
	$(BIN)/python -m bench.serving $(MODEL) --values bench/serving-cpu.yaml --streams 1 2

bench-startup: .venv/demo ## How long `halops --help` takes
	$(BIN)/python -m bench.startup

control: .venv/demo ## The same training on shuffled answers: what a model that learned nothing scores
	mkdir -p .halops/shuffled
	$(BIN)/python -m bench.shuffled --data data/final/train.jsonl --out .halops/shuffled/train.jsonl
	cp data/final/probes.jsonl .halops/shuffled/probes.jsonl
	$(BIN)/halops submit --profile local --data .halops/shuffled/train.jsonl --name shuffled --set verify.max_stop_failures=4 --wait

LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate
lock: .venv/uv ## Pin every dependency again, with hashes
	$(LOCK) --upgrade --extra dev -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt --extra train --extra merge --extra convert --extra build -o requirements/demo.txt
	for image in train merge convert; do $(LOCK) -c requirements/dev.txt --extra $$image -o requirements/$$image.txt; done
	$(subst pyproject.toml,requirements/sbom.in,$(LOCK)) --upgrade -o requirements/sbom.txt

clean: ## Remove the virtual environment and this folder's runs (caches stay)
	rm -rf .venv .halops .coverage .coverage.* build *.egg-info
