"""Our bundles and other tools' models, measured in the same run: size, quality, latency."""
