"""The proof that an update survives: faults of every kind, one after another, each case counted.

`python -m tests.reliability` runs them and writes `docs/reliability.md`. There is one module for
each kind of fault; `state` says what must be true after every one of them.
"""
