PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNEL_TESTS := tests/kernels
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: train test test-slow test-all coverage bench sanitize triton-versions gpu-sanitize lint format type clean

train: $(VENV)/stamp
	$(BIN)/python -m bcvlr_fast.train --env procgen:bossfight

test: lint type $(VENV)/stamp
	$(PYTEST)

# The tests that take long; each has a faster one beside it in `make test`.
test-slow: $(VENV)/stamp
	$(PYTEST) -m slow

test-all: test test-slow

# Lines and branches that the tests of both tiers pass through, the processes that they start included.
coverage: $(VENV)/stamp
	$(PYTEST) -m "" --cov --cov-report=term

bench: $(VENV)/stamp
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pytest bench

# The C++ kernels under the address and undefined-behavior sanitizers, with fresh memory full of NaN.
sanitize: $(VENV)/stamp
	BCVLR_FAST_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" \
		$(BIN)/python setup.py -q build_ext --build-temp build/sanitize --build-lib build/sanitize
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:max_malloc_fill_size=1073741824:malloc_fill_byte=255 \
	BCVLR_FAST_LIBRARY=build/sanitize/bcvlr_fast/kernels/_cpu.so \
		$(BIN)/python -m pytest -s $(KERNEL_TESTS) -k "not triton and not reference"

# The Triton kernels, interpreted and compiled ahead of time, with every supported version.
triton-versions: $(VENV)/stamp
	for version in 3.6.0 3.7.1 3.8.0 3.9.0; do \
		$(BIN)/python -m pip install -q --no-deps --upgrade --target build/triton-$$version triton==$$version && \
		PYTHONPATH=build/triton-$$version $(BIN)/python -m pytest -m "" $(KERNEL_TESTS) tests/tools/test_triton_budget.py -k triton || exit 1; \
	done

# On a GPU: out-of-bounds and uninitialized accesses, and races in shared memory.
gpu-sanitize: $(VENV)/stamp
	for tool in memcheck racecheck; do \
		compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python -m pytest $(KERNEL_TESTS) -k triton || exit 1; \
	done

lint: $(VENV)/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(VENV)/stamp
	$(BIN)/mypy

format: $(VENV)/stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/stamp: pyproject.toml constraints.txt setup.py tools/setup.sh $(wildcard csrc/*)
	PYTHON=$(PYTHON) VENV=$(VENV) sh tools/setup.sh
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
