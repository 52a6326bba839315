# Two commands do everything: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
MEMBERS := handrail $(patsubst %/pyproject.toml,%,$(wildcard services/*/pyproject.toml)) sandbox demo chaos
UV_VERSION := 0.13.8
export UV_NO_CONFIG := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo chaos chaos-mutants test check format lock clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

.venv/.ready: requirements.lock tools/uv.txt pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Handrail needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r tools/uv.txt
	@$(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes requirements.lock tools/uv.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation $(addprefix -e ./,$(MEMBERS))
	@touch $@

setup: .venv/.ready ## Make the environment in .venv (locked, with hashes)

demo: setup ## 3,000 TPC-H orders become invoices while services are killed (BREAK=dedupe|verify, KEEP=1)
	@$(BIN)/python -m handrail_demo $(if $(BREAK),--break $(BREAK)) $(if $(KEEP),--keep)

chaos: setup ## A storm of faults over all services, judged from outside (SEED= MINUTES= BROKERS= EVENTS= RATE= BURST= CALLS= SLICE= MUTANT=file.patch KEEP=1)
	@$(BIN)/python -m handrail_chaos run $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(BROKERS),--brokers $(BROKERS)) $(if $(EVENTS),--events $(EVENTS)) $(if $(RATE),--rate $(RATE)) $(if $(BURST),--burst $(BURST)) \
		$(if $(CALLS),--calls $(CALLS)) $(if $(SLICE),--slice $(SLICE)) $(if $(MUTANT),--mutant $(MUTANT)) $(if $(KEEP),--keep)

chaos-mutants: setup ## Ten deliberately broken builds, and by which check each one is caught
	@$(BIN)/python -m handrail_chaos mutants

test: setup ## Run every test; a real Kafka is started where one is needed
	@$(BIN)/python -m pytest $(ARGS)

check: setup ## What CI checks beside the tests: style, types, imports, contracts, flows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@# Every flow has a v1/mapping.py, and they stand alone when they are loaded: so are they checked.
	@find flows -name '*.py' -not -path '*/tests/*' -print0 | xargs -0 -n 1 $(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports
	@$(BIN)/handrail contracts check
	@$(BIN)/handrail check

format: setup ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: setup ## Lock every dependency anew, with hashes and without naming a registry
	@$(BIN)/uv lock -q $(if $(UPGRADE),--upgrade)
	@$(BIN)/uv export -q --all-packages --all-groups --no-emit-workspace --no-header --no-annotate --format requirements-txt > requirements.lock
	@# Which of them an image needs, by name; deploy/docker/pick.py takes their hashes from the lock.
	@for folder in $(wildcard services/*) sandbox; do test -f $$folder/pyproject.toml || continue; name=$$(basename $$folder); \
		$(BIN)/uv export -q --frozen --package handrail-$$name --no-dev --no-emit-workspace --no-hashes --no-header --no-annotate \
		| sed -E 's/==.*//' | sort -u > deploy/docker/needs/$$name.txt; done
	@echo "uv==$(UV_VERSION)" | $(BIN)/uv pip compile -q --generate-hashes --no-header --no-annotate --universal - -o tools/uv.txt

clean: ## Remove the environment and every cache of the tools (not .handrail)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
