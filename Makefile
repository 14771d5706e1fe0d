# Every target makes its own environment in .venv from a bare clone; ARGS adds to the command line.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart browser test nightly fuzz saves sweep docs lint format clean

quickstart: .venv/installed
	$(BIN)/accelerate launch --config_file recipes/accelerate/cpu.yaml \
		recipes/train_espro.py recipes/configs/quickstart.yaml $(ARGS)

# The explorer is tested in a real browser, which is a Debian package. Without one, its tests are skipped.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
		echo "There is no Chromium, and it cannot be installed here: the explorer's browser tests are skipped." \
			"Install it, for example with: sudo apt-get install chromium"

# Two processes of one thread each. A file runs in one of them, which makes its fixtures once.
test: .venv/installed browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Too slow for every change: `make saves`, and the recipe, killed at many moments and resumed.
nightly: saves
	$(BIN)/python -m pytest -s tests/training/test_killed.py --kills 32 $(ARGS)

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

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "hf-simplex needs Python 3.11 or newer: make PYTHON=..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	uv=$$(command -v uv) || { $(BIN)/python -m pip install --quiet uv && uv=$(BIN)/uv; }; \
		$$uv pip install --quiet --python $(BIN)/python -e ".[recipes,test,docs,lint]"
	touch $@

clean:
	rm -rf .venv output docs/_build
