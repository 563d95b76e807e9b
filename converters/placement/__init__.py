"""Where a model's operators run: here by running it, on a board's accelerator by its vendor's tool.

`result` is what is found out, `targets` the table of tools, `place` asks them, `coverage` holds the
answer against a profile. `environments` sets tools up; `worker` and `tools` run over there and
import nothing of ours but what is light, so this file imports nothing at all.
"""
