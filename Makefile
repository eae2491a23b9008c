# Everything from a bare machine: only Python 3.11+ and make are needed. `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes
UV_COMPILE := $(VENV)/lock/bin/uv pip compile $(UV_FLAGS) --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate
SOURCES := service finmind_client tests alembic docs benchmarks examples
# More than there are cores: tests wait a lot, the fast ones most. See docs/decisions/010-tests-in-parallel.md.
cores_and = $(shell $(PYTHON) -c 'import os; print($(1) + os.cpu_count())')
test: WORKERS ?= $(call cores_and,1)
test-fast: WORKERS ?= $(call cores_and,2)
PARALLEL = -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run demo test test-fast processes simulation chaos security audit sbom openapi check format lint types floors dockerfile lock docs bench bench-peers wheel clean python chromium screenshots

help: ## Show what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.run ## Serve on :8000 (PORT), with an own PostgreSQL unless DATABASE_URL is set
	@exec $(BIN)/python -m service serve

demo: $(VENV)/.run ## Enqueue a lively mix of jobs into what `make run` serves
	@$(BIN)/python -m service demo

test: $(VENV)/.dev chromium ## Run the tests, in parallel (WORKERS=0 for one after the other, ARGS="-k claim")
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: $(VENV)/.dev ## Run the tests that start no process and take no second: in a minute
	$(BIN)/python -m pytest $(PARALLEL) -m "not whole and not slow and not security and not chaos" \
		$(addprefix --ignore tests/,chaos cli processes security simulation) $(ARGS)

# Never fails: without a browser its tests are skipped, and say why.
chromium:
	@tests/dashboard/chromium.sh

# Else each worker, and each process that it starts, compiles everything anew.
test test-fast: export PYTHONDONTWRITEBYTECODE =

processes: $(VENV)/.dev ## Run the long tests: three replicas, 20,000 jobs, one of them killed
	$(BIN)/python -m pytest -m slow

simulation: $(VENV)/.dev ## Simulate 20,000 seeds, and play long histories to PostgreSQL (SIMULATION_SEED=7 for one)
	SIMULATION_SEEDS=$${SIMULATION_SEEDS:-20000} SIMULATION_TIMEOUT_SECONDS=3600 \
		MODEL_SEQUENCES=200 STATE_MACHINE_EXAMPLES=200 \
		$(BIN)/python -m pytest --timeout 3600 -m "not chaos" \
		$(if $(SIMULATION_SEED),tests/simulation/test_simulation.py,tests/simulation tests/jobs/test_state_machine.py)

chaos: $(VENV)/.dev ## Inject faults at length: some three hours (ARGS="-k poison" for some of them)
	$(BIN)/python -m pytest -m chaos tests/chaos $(ARGS)

security: $(VENV)/.dev $(VENV)/.security ## Attack the service, and look for weak places in its code
	$(VENV)/security/bin/bandit --quiet --recursive --configfile pyproject.toml service alembic
	$(BIN)/python -m pytest -m "not slow and not chaos" tests/security tests/auth tests/pages tests/dashboard \
		tests/api/test_limits.py tests/api/test_policies.py

audit: $(VENV)/.security ## Look up known vulnerabilities of what is locked (asks a service on the internet)
	$(VENV)/security/bin/pip-audit --strict --disable-pip --require-hashes -r locks/service.txt -r locks/embedded.txt

screenshots: $(VENV)/.dev chromium ## Take the pictures of README and docs, of a dashboard with lively data
	$(BIN)/python -m tests.dashboard.screenshots

sbom: $(VENV)/.security ## Write dist/sbom.cdx.json: the packages of the container image, CycloneDX
	mkdir -p dist
	$(VENV)/security/bin/cyclonedx-py requirements locks/service.txt --pyproject pyproject.toml \
		--output-reproducible --output-file dist/sbom.cdx.json

openapi: $(VENV)/.dev $(VENV)/.openapi ## Lint the OpenAPI document; generate clients from it, type-check them, and have them run a job
	$(BIN)/python -m tests.openapi $(VENV)/openapi

check: lint types floors dockerfile openapi test ## Everything that must hold before a commit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/ruff check $(wildcard $(SOURCES))

types: $(VENV)/.dev
	$(BIN)/mypy

floors: $(VENV)/.dev
	$(BIN)/lint-imports

dockerfile: $(VENV)/.dev
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.dev ## Format and repair what can be repaired
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

bench: $(VENV)/.bench ## Measure, beside floors measured in the same run (ARGS="drain --jobs 1000000")
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(VENV)/.dev ## Measure beside other queues, installed into .bench (ARGS="--jobs 100000")
	$(BIN)/python -m benchmarks.peers $(ARGS)

docs: $(VENV)/.dev ## Write what is generated: docs/configuration.md, docs/metrics.md, modules of finmind_client
	$(BIN)/python docs/generate.py
	$(BIN)/python -m tests.client.unasync

lock: python ## Bring the locks in line with pyproject.toml (UV_FLAGS=--upgrade for newer versions)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	test -x $(VENV)/lock/bin/uv || { $(PYTHON) -m venv $(VENV)/lock && \
		$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check uv; }
	$(UV_COMPILE) pyproject.toml --extra dev --extra embedded -o locks/dev.txt
	$(UV_COMPILE) pyproject.toml --extra embedded -c locks/dev.txt -o locks/embedded.txt
	$(UV_COMPILE) pyproject.toml -c locks/dev.txt -o locks/service.txt
	$(UV_COMPILE) pyproject.toml --extra bench --extra embedded -c locks/dev.txt -o locks/bench.txt
	$(UV_COMPILE) --group security -o locks/security.txt
	$(UV_COMPILE) --group openapi -o locks/openapi.txt

wheel: $(VENV)/.dev ## Build dist/*.whl, to install elsewhere
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--no-index --wheel-dir dist .
	@ls dist/*.whl

clean: ## Remove what was made; the data in .data stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .bench dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is" \
		"$$($(PYTHON) --version 2>&1 || true). Name another: make PYTHON=python3.12" >&2; exit 1; }

# Two stamps, so that `make run` need not wait for the tools of the tests.
$(VENV)/.run: locks/embedded.txt
	@$(MAKE) --no-print-directory python
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) -r locks/embedded.txt
	@touch $@

$(VENV)/.dev: locks/dev.txt $(VENV)/.run
	$(PIP) -r locks/dev.txt
	@touch $@

$(VENV)/.bench: locks/bench.txt $(VENV)/.dev
	$(PIP) -r locks/bench.txt
	@touch $@

# Apart from the others: what these tools need must not decide what the service gets.
$(VENV)/.security: locks/security.txt
	@$(MAKE) --no-print-directory python
	$(VENV)/security/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)/security
	$(VENV)/security/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r locks/security.txt
	@touch $@

$(VENV)/.openapi: locks/openapi.txt
	@$(MAKE) --no-print-directory python
	$(VENV)/openapi/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)/openapi
	$(VENV)/openapi/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r locks/openapi.txt
	@touch $@
