# Every target does the set-up it needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE := $(VENV)/node_modules/.installed
BUF := $(VENV)/node_modules/.bin/buf

.PHONY: help setup demo test test-long check docs reference bench bench-http bench-jobs bench-judgement bench-rollout bench-soak bench-training format protos protos-dist twins lock lock-images clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) $(VENV)/.system ## Make ./.venv with the project, the test tools and the bench peers

$(STAMP): requirements/cpu.txt pyproject.toml
	@tools/install.sh $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.system: $(STAMP)
	@tools/system_packages.sh $(VENV)
	@touch $@

demo: $(STAMP) ## Two datasets become two served adapters, and a retrained one is swapped in under load
	@$(BIN)/python -m examples.demo

test: setup $(NODE) ## Every test but the long ones
	@$(BIN)/python -m pytest -m "not long"

test-long: setup $(NODE) ## The long tests
	@$(BIN)/python -m pytest -m long

check: setup $(NODE) ## Format, lint, types, import directions, protos, stub drift, chart, Dockerfiles, docs and links
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@tools/protos.sh lint $(BIN) $(BUF)
	@tools/protos.sh drift $(BIN)
	@$(BIN)/python tools/twins.py check
	@$(BIN)/python -m tests.chart.lint
	@$(BIN)/python tools/dashboards.py check
	@$(BIN)/hadolint deploy/docker/*.Dockerfile
	@$(BIN)/python -m tools.reference check
	@$(BIN)/python -m tools.links
	@$(BIN)/sphinx-build -q -W --keep-going -n -d build/doctrees docs build/docs && echo "docs are built, and their links lead somewhere"

docs: setup ## The documentation as a site: build/docs/index.html
	@$(BIN)/sphinx-build -q -W --keep-going -n -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

reference: setup ## Write docs/reference anew from protos, settings, commands, errors and metrics
	@$(BIN)/python -m tools.reference write

bench: setup ## Serving beside vLLM's own OpenAI server: build/bench/serving.json and its picture
	@mkdir -p build/bench
	@$(BIN)/python -m bench.serving --out build/bench/serving.json

bench-http: setup ## OpenAI's API beside vLLM's own server and beside gRPC: build/bench/http.json
	@mkdir -p build/bench
	@$(BIN)/python -m bench.http --out build/bench/http.json

bench-jobs: setup ## The queue of 500 tenants on a PostgreSQL: build/bench/jobs.json
	@mkdir -p build/bench
	@$(BIN)/python -m bench.jobs --out build/bench/jobs.json

bench-judgement: setup ## Planted faults found, and what judging and a sweep cost: build/bench/judgement.json
	@mkdir -p build/bench
	@$(BIN)/python -m bench.judgement --out build/bench/judgement.json

bench-rollout: setup ## Rolling restarts under load, a trainer restarted under a job: build/bench/rollout.json
	@mkdir -p build/bench
	@$(BIN)/python -m bench.rollout --out build/bench/rollout.json

bench-soak: setup ## 500 jobs through two trainers that are killed again and again: build/bench/soak.json
	@mkdir -p build/bench
	@$(BIN)/python -m bench.jobs --soak 500 --out build/bench/soak.json

bench-training: setup ## Training beside PEFT and TRL: build/bench/training.json
	@mkdir -p build/bench
	@$(BIN)/python -m bench.training --out build/bench/training.json

format: setup ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

protos: setup ## Generate the typed stubs from protos/
	@tools/protos.sh generate $(BIN)

protos-dist: setup ## Pack the protos for other languages: build/tailorbird-protos-VERSION.tar.gz
	@$(BIN)/python tools/protos_dist.py build

twins: setup ## Make the synchronous clients from those for asyncio
	@$(BIN)/python tools/twins.py generate

lock: ## Resolve requirements/cpu.txt anew
	@tools/lock.sh $(PYTHON)

lock-images: setup ## Make the images' locks from requirements/cpu.txt and the package index's hashes
	@tools/lock_images.sh $(BIN)/python

clean: ## Remove the virtual environment and the demo's data
	@rm -rf $(VENV) build .demo

# One command for all of them: npm takes away what the last one did not name.
$(NODE): requirements/node.txt $(STAMP)
	@npm install --silent --no-audit --no-fund --no-save --prefix $(VENV) $$(cat requirements/node.txt)
	@touch $@
