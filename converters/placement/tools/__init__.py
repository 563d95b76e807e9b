"""The vendors' tools, one module each; a module runs in the environment of its tool."""
