# masche: every target makes what it needs. `make demo` and `make test` work on a fresh Debian with Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
UI     := src/masche/api/static/index.html

# Tests start hundreds of processes, and each would compile the mesh anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long check accept bench ui wheel format clean help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml scripts/environment
	scripts/environment $(PYTHON) $(VENV)
	touch $(STAMP)

demo: $(STAMP) ## build and install the wheel and run the demo (ARGS=--fast for the unattended form)
	scripts/demo $(ARGS)

test: $(STAMP) ## all tests, also those with real Envoys, in a quarter of an hour on two cores
	scripts/system-packages
	scripts/tests $(ARGS)

test-long: $(STAMP) ## the long forms: more kills, more cases, longer outages
	scripts/system-packages
	MASCHE_LONG=1 $(BIN)/python -m pytest --timeout 3600 $(ARGS)

check: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(STAMP) ## rewrite the format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

accept: $(STAMP) ## rewrite the golden files of the stories
	$(BIN)/python scripts/accept

bench: $(STAMP) ## run one benchmark: make bench NAME=slow-replica (without NAME: which there are)
	$(BIN)/python bench/run.py $(NAME) $(ARGS)

ui: ## build the dashboard into the package (needs npm)
	cd ui && npm ci --no-audit --no-fund && npm run build

wheel: $(STAMP) ## build dist/*.whl
	$(BIN)/uv build --wheel -q

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
