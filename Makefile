# `make demo` and `make test` do everything on a fresh machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= a vase
DOMAIN ?= porcelain

.PHONY: demo test setup lint clean

demo: setup
	$(BIN)/python scripts/text_to_3d.py --domain $(DOMAIN) --prompt "$(PROMPT)"

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .

setup: $(VENV)/.installed

# torch comes first and by itself, so that no other package can bring another build of it in.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e ".[test,kiln,train,baselines]"
	touch $@

clean:
	rm -rf $(VENV) *.egg-info
