# Everything a user or developer runs. `make` alone lists the targets.
SHELL := /bin/bash
PY := .venv/bin/python
N ?= 1000
SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help setup setup-test install uninstall demo check test bench soak fuzz docs clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## install what `rezolus` needs: Debian packages and .venv
	@.ci/setup.sh demo

setup-test: ## the same, and what the tests and benchmarks need
	@.ci/setup.sh test

install: ## install it as services of systemd, as root (PREFIX=/opt/rezolus)
	@config/install.sh install

uninstall: ## remove them again; configuration and recordings stay
	@config/install.sh uninstall

demo: setup ## run the agent for 10 s beside a small workload and print what it measured
	@.venv/bin/rezolus demo

check: setup-test ## formatter, linter, type checker
	@.venv/bin/ruff format --check --quiet . || { .venv/bin/ruff format --check .; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy

test: check ## the whole suite, after `check`
	@$(PY) -m pytest $(ARGS)

bench: setup-test ## measure the budgets: target, measured, ratio
	@$(PY) -m tests.bench $(ARGS)

soak: setup-test ## run everything for SECONDS under churn and tell whether memory, descriptors and BPF objects stay flat
	@$(PY) -m tests.soak $(SECONDS)

fuzz: setup-test ## compile N generated programs, run them in the kernel and in the interpreter (N=1000)
	@$(PY) -m tests.fuzz $(N)

docs: setup-test ## regenerate docs/metrics.md from probes/, and the compiler's messages in all pages
	@.venv/bin/rezolus metrics --markdown > docs/metrics.md.new && mv docs/metrics.md.new docs/metrics.md
	@$(PY) -m tests.pages

clean: ## remove everything that was made here, .venv included
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo.parquet docs/metrics.md.new
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
