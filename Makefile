# The two commands: `make demo` and `make test`. Both make the virtual environment they need.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[augment,demo,dev]'
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## Virtual environment in .venv with everything pinned

.PHONY: demo
demo: install ## Train, distill and evaluate for real: minilm on Rotten Tomatoes, then a BiLSTM
	$(BIN)/python -m distilkit.data.demo $(DEMO)/data
	$(BIN)/distilkit train --config configs/demo/teacher.yaml --output-dir $(DEMO)/teacher --overwrite
	$(BIN)/distilkit distill --config configs/demo/bilstm.yaml --output-dir $(DEMO)/student --overwrite
	$(BIN)/distilkit evaluate $(DEMO)/teacher $(DEMO)/student --dataset rotten_tomatoes --data-dir $(DEMO)/data --split test

.PHONY: test
test: check ## Lint, type checks and the full test suite
	$(BIN)/python -m pytest -m alone
	$(BIN)/python -m pytest -m "not alone" -n auto --maxprocesses 4

.PHONY: check
check: lint types ## Lint and types only: the quick look before a commit

.PHONY: lint
lint: install ## Style and format, without changing a file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: install ## Type check
	$(BIN)/mypy

.PHONY: format
format: install ## Put format and imports right
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: docs-help
docs-help: install ## Paste what every --help prints today into docs/cli.md
	$(BIN)/python tests/documents.py

BENCH := $(BIN)/python -m benchmarks
.PHONY: bench
bench: install ## Measure against other tools, some 50 minutes on 2 cores; writes benchmarks/RESULTS.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[augment,bench,demo,dev]'
	$(BENCH).startup
	$(BENCH).teacher_logits --rows 16384 --others 1024
	$(BENCH).bilstm_epoch --rows 12000 --sample 512 --loop-sample 1024 --epochs 5
	$(BENCH).bert_epoch --rows 8192 --sample 512
	$(BENCH).sweep --rows 2000 --sampled 1
	$(BENCH).augmentation
	$(BENCH).memory --tiny-teacher --small-student --sizes 10000 40000
	$(BENCH).reviews --rows 5000
	$(BENCH).growth --rows 4096
	$(BENCH).step_profile
	$(BENCH).levers
	$(BENCH).precision
	$(BENCH).neighbour
	$(BENCH).report
