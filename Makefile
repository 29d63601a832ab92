# Set-up happens once, in .venv; every target below does it if needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo runtime test test-slow test-all bench bench-all lint types docs help-texts clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv and install flowlit with its development tools

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flowlit needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev]'
	$(BIN)/python -c 'import flowlit.commands.lightning'  # Python compiles what it imports once
	touch $@

demo: $(READY)  ## the whole recipe on handwritten digits, under 10 minutes on two cores
	$(BIN)/flowlit pipeline -c experiments/recipes/slimflow_digits.yaml

# What runs a generator in a browser; a page fetches it from a CDN otherwise, and its test is skipped.
RUNTIME := build/onnxruntime-web
WEB := onnxruntime-web@1.30.0
FILES := ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm \
         ort.webgpu.min.mjs ort-wasm-simd-threaded.asyncify.mjs ort-wasm-simd-threaded.asyncify.wasm
runtime: $(RUNTIME)/.ready  ## onnxruntime-web from npm into build/onnxruntime-web, for --runtime and for tests in a browser

$(RUNTIME)/.ready:
	rm -rf $(RUNTIME)
	mkdir -p $(RUNTIME)/npm
	npm pack --silent --pack-destination $(RUNTIME)/npm $(WEB)
	tar -xzf $(RUNTIME)/npm/*.tgz -C $(RUNTIME) --strip-components 1 $(addprefix package/dist/,$(FILES))
	rm -r $(RUNTIME)/npm
	touch $@

# Without reordering the small files come last, so that no core waits long for another.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test: $(READY)  ## all tests but the slow ones, a file on each core
	$(PYTEST) -m "not slow"

test-slow: $(READY)  ## the slow tests: compilers, torch-fidelity's command line, several processes, long rows and journeys
	$(PYTEST) -m slow

test-all: test test-slow  ## all tests

DEVICE ?= cpu
bench: $(READY)  ## the figures of speed, beside plain baselines (about 10 minutes; DEVICE=cuda for a GPU)
	$(BIN)/python -m benchmarks --device $(DEVICE)

bench-all: $(READY)  ## all benchmarks on the CPU: growth, couplings and evaluation, too (about 50 minutes)
	for name in figures growth solving reading large_store making statistics generation; do $(BIN)/python -m benchmarks $$name || exit 1; done

lint: $(READY)  ## style and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)  ## static types
	$(BIN)/mypy

docs: $(READY)  ## the documentation site, into build/site (open build/site/index.html, or: make docs SERVE=serve)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(SERVE),build --quiet)

help-texts: $(READY)  ## write the packaged help of the commands that take seconds to import
	$(BIN)/python tests/helpers/help_texts.py

clean:  ## remove results (runs/), not the installation
	rm -rf runs lightning_logs
