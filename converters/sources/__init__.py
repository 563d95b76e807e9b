"""Models as people bring them: one module a format, each opened into a `FloatModel`."""
