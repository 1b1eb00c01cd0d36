"""Benchmarks of the budgets: `python -m tests.bench [NAME...]`. Each prints target, measured and their ratio."""
