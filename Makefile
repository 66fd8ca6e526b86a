# The commands of the project, which CI uses too; each runs `make setup` first where it is needed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# `make setup CPU=1` installs PyTorch's CPU-only build, about 1 GB instead of 6.
CPU ?=

.PHONY: setup demo test check gpu-check bench docs clean

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "smidgen needs Python 3.11 or newer; name one with 'make PYTHON=python3.12 …'."; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv is missing: 'apt install python3-venv' brings it."; exit 2; }
ifneq ($(CPU),)
	$(PIP) torch torchvision --index-url https://download.pytorch.org/whl/cpu
endif
	$(PIP) --editable '.[dev]'
	@touch $@
	@echo 'Ready: `source .venv/bin/activate` puts `smidgen` on the path of this shell.'

demo: setup  ## the main job on the 70,000 MNIST digits, no labels: about three minutes
	$(BIN)/smidgen fit mnist --out runs/demo --overwrite

test: setup  ## every test and every example in a docstring
	$(BIN)/pytest -n 2

check: setup  ## style, types, and that imports go down only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu-check: setup  ## what a CUDA device must show: fits, resume, precision, repeatability, agreement with the CPU, speed
	$(BIN)/pytest -m gpu tests/gpu

bench: setup  ## figures for LAB.md: minutes, not seconds
	$(BIN)/python benchmarks/kill_resume.py

docs: setup  ## the reference of the public names, as HTML in build/docs
	$(BIN)/python -W error::UserWarning -c 'from pathlib import Path; import pdoc, smidgen; \
		[getattr(smidgen, name) for name in smidgen.__all__]; pdoc.pdoc("smidgen", output_directory=Path("build/docs"))'

clean:
	rm -rf .venv build dist runs/demo
