.PHONY: check test bench docs format

check:
	ruff format --check .
	ruff check .
	mypy

test:
	python -m pytest

bench:
	python benchmarks/speed.py

docs:
	python scripts/build_docs.py

format:
	ruff format .
	ruff check --fix .
