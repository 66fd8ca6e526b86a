# The words of the project; CI uses them too. `make setup` is done by the others when it is needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check bench docs clean

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "smidgen needs Python 3.11 or newer; name one with 'make PYTHON=python3.12 …'."; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv is missing: 'apt install python3-venv' brings it."; exit 2; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## the main job on the 70,000 MNIST digits, no labels: about three minutes
	$(BIN)/smidgen fit mnist --out runs/demo --overwrite

test: setup  ## every test and every example in a docstring
	$(BIN)/pytest -n 2

check: setup  ## style, types, and that imports go down only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## figures for LAB.md: minutes, not seconds
	$(BIN)/python benchmarks/kill_resume.py

docs: setup  ## the reference of the public names, as HTML in build/docs
	$(BIN)/pdoc --output-directory build/docs smidgen

clean:
	rm -rf .venv build dist runs/demo
