# `make demo` and `make test` work from a fresh clone with nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/
STAMP := $(VENV)/.installed

.PHONY: demo test check docs bench bench-quick browser format fuzz conformance native web web-quick test-arm64 \
	test-arm64-quick providers servers

demo: $(STAMP)
	@$(RUN)eetoolkit demo

test: $(STAMP)
	@echo "== tests"
	@$(RUN)python -m pytest -n auto --dist worksteal -rs

check: $(STAMP)
	@echo "== ruff, mypy"
	@$(RUN)ruff check .
	@$(RUN)ruff format --check .
	@$(RUN)mypy

# The pages of docs/ and the API reference as one site, which opens without a server.
docs: $(STAMP)
	@$(RUN)python -m sphinx -E -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

# The first time it also fetches some 110 MB (pip, npm) and trains eleven networks, which takes an hour and more; one
# learns words that eSpeak NG speaks (`apt install espeak-ng`).
bench: $(STAMP)
	@$(RUN)python -m benchmarks

# Under three minutes; fails when a ratio is worse than its bound.
bench-quick: $(STAMP)
	@$(RUN)python -m benchmarks.quick

# Damaged files for every reader of files; some ten minutes for each million. FUZZ_SEED gives other ones. Then random
# programs, compiled in every variant; some ten minutes for each thousand. Then the random plans of the tests, all 300.
FUZZ_INPUTS ?= 1000000
FUZZ_PROGRAMS ?= 1000
FUZZ_SEED ?= 1
fuzz: $(STAMP)
	@$(RUN)python tests/fuzzing.py $(FUZZ_INPUTS) $(FUZZ_SEED)
	@$(RUN)python tests/program_property.py --count $(FUZZ_PROGRAMS) --start $(FUZZ_SEED)
	@$(RUN)python tests/fuzz_web.py $(FUZZ_INPUTS) $(FUZZ_SEED)
	@EETOOLKIT_MANY=1 $(RUN)python -m pytest -n auto -k random tests/test_batch.py tests/test_prune.py \
		tests/test_runner_plans.py tests/test_single_file.py

# What `split` writes, under Triton's own binary: pip fetches some 370 MB the first time.
servers: $(STAMP)
	@EETOOLKIT_SERVERS=1 $(RUN)python -m pytest -rs tests/test_split_servers.py

# A Chromium for the tests of pages, which are skipped without one; on Debian and its kin, as root.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; }

# The cases for runners of any language: are they what they would be made as?
conformance: $(STAMP)
	@$(RUN)python tests/conformance.py --check

# Bundles on emulated processors of a Raspberry Pi 4 and 5, in a cache folder of Debian's packages, and the commands of
# docs/raspberry-pi.md; some 15 minutes. `python -m benchmarks.readme` makes the table of platforms from what it finds.
test-arm64: $(STAMP)
	@$(RUN)python tests/platforms.py
	@$(RUN)python tests/raspberry_pi.py

# The conformance cases alone, on one processor.
test-arm64-quick: $(STAMP)
	@$(RUN)python tests/platforms.py --quick

# The C++ runner and its programs, tested also under sanitizers; the first time it fetches onnxruntime's headers.
NATIVE := runtime/native
native: $(STAMP)
	@echo "== $(NATIVE)/build"
	@cmake -S $(NATIVE) -B $(NATIVE)/build -DONNXRUNTIME_HEADERS="$$($(NATIVE)/headers.sh)" >/dev/null
	@cmake --build $(NATIVE)/build --parallel 2
	@EETOOLKIT_SANITIZE=1 FUZZ_SECONDS=$${FUZZ_SECONDS:-60} $(RUN)python -m pytest -q tests/test_native*.py

# The package for browsers, Node and React Native: fetched, built, type-checked with the page of `eetoolkit serve`, tested.
WEB := runtime/web
web: $(STAMP)
	@echo "== $(WEB)"
	@cd $(WEB) && npm ci --loglevel=error
	@$(MAKE) --no-print-directory web-quick
	@$(RUN)python -m pytest -q -rs $(wildcard tests/test_web*.py tests/test_serve*.py)
	@$(RUN)python tests/platforms.py --quick --only node chromium

# The same without Python's tests, where there is Node.
web-quick:
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
		cd $(WEB) && { [ -d node_modules ] || npm ci --loglevel=error; } && node build.mjs && npm run --silent check && npm run --silent test; \
	else echo "!! NO NODE OR NPM: $(WEB) IS NOT BUILT AND NOT TESTED"; fi

# Other builds of onnxruntime (some 800 MB, once, in a cache folder), and every case on their providers.
providers: $(STAMP)
	@$(RUN)python tests/providers.py
	@$(RUN)python -m pytest -q -s tests/test_providers.py

format: $(STAMP)
	@$(RUN)ruff check --fix .
	@$(RUN)ruff format .

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (once; torch makes it a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit("eetoolkit needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=python3.12 or so" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(RUN)python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
