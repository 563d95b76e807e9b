"""One module for each tool: how it builds its models and how they run. See `peer.Module`.

Each runs in an environment of its own, so a module imports its toolchain inside functions.
"""
