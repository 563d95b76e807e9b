"""The product's main job on one machine: `python -m examples.demo` (see README)."""
