PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint format type clean

train: $(VENV)/stamp
	$(BIN)/python -m bcvlr_fast.train --env procgen:bossfight

test: lint type $(VENV)/stamp
	$(BIN)/python -m pytest --cov --cov-report=term

lint: $(VENV)/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(VENV)/stamp
	$(BIN)/mypy

format: $(VENV)/stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/stamp: pyproject.toml constraints.txt tools/setup.sh
	PYTHON=$(PYTHON) VENV=$(VENV) sh tools/setup.sh
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
