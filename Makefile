# Every target makes its own environment in .venv from a bare clone; ARGS adds to the command line.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart browser test lowest release nightly notebooks fuzz saves sweep docs lint format clean

quickstart: .venv/installed
	$(BIN)/accelerate launch --config_file recipes/accelerate/cpu.yaml \
		recipes/train_espro.py recipes/configs/quickstart.yaml $(ARGS)

# The explorer is tested in a real browser, which is a Debian package. Without one, its tests fail.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
		echo "There is no Chromium, and it cannot be installed here: the explorer's browser tests will fail." \
			"Install it, for example with: sudo apt-get install chromium" \
			"Or leave out tests/explorer/test_browser.py and tests/explorer/test_image_sources.py, with --ignore."

# Two processes of one thread each. A file runs in one of them, which makes its fixtures once.
test: .venv/installed browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# The core tests with the lowest versions of the direct dependencies that pyproject.toml allows. Deprecations
# between these versions are no errors. Tests of files, of locks and of the loopback Hub are left out: versions do not matter.
CORE := tests/model tests/cli tests/hub tests/training/test_spro.py tests/training/test_step.py \
	tests/training/test_trainer.py tests/training/test_vertex_trainer.py tests/training/test_linear_probe.py \
	tests/training/test_resumption.py
lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadfile $(CORE) \
		--ignore tests/model/test_atomic_saves.py --ignore tests/hub/test_loopback_hub.py \
		-W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning $(ARGS)

# Builds the wheel and the source archive, checks them, and uses the wheel in an empty environment without extras. With
# ARGS="--output dist", the archives are kept.
release: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m release $(ARGS)

# Too slow for every change: `make saves`, the notebooks, and the recipe, killed at many moments and resumed.
nightly: saves
	PYTHONPATH=tests $(BIN)/python -m notebooks --check
	$(BIN)/python -m pytest -s tests/training/test_killed.py --kills 32 $(ARGS)

# Executes the notebooks in docs/notebooks, and writes what they print and draw into them.
notebooks: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m notebooks $(ARGS)

# Loads 100,000 ensembles with a broken file each, in about half an hour on two cores.
fuzz: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

# Kills saves at every operation on files and at random moments, fills disks, reads beside savers and follows links.
saves: .venv/installed
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m saves $(SAVES)

# Takes a backbone of every family of timm and every class of transformers through an ensemble's life, in about half
# an hour on two cores, and writes docs/backbones.md.
sweep: .venv/installed
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m sweep $(ARGS)

# The site, in docs/_build/html; a warning is an error.
docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The package's metadata hold its version.
.venv/installed: pyproject.toml hf_simplex/version.py
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "hf-simplex needs Python 3.11 or newer: make PYTHON=..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	uv=$$(command -v uv) || { $(BIN)/python -m pip install --quiet uv && uv=$(BIN)/uv; }; \
		$$uv pip install --quiet --python $(BIN)/python -e ".[recipes,test,docs,lint,release]"
	touch $@

# A new environment: a version that is installed would stay.
.venv-lowest/installed: pyproject.toml hf_simplex/version.py .venv/installed
	rm -rf .venv-lowest
	uv=$$(command -v uv) || uv=$(BIN)/uv; \
		$$uv venv --quiet --python $(BIN)/python .venv-lowest && \
		$$uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-lowest output docs/_build
