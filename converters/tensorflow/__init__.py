"""TensorFlow in a process of its own: asked in JSON, arrays as .npz files.

TensorFlow and the rest of the host's toolchain fight over memory, versions and the terminal, so it
lives in an environment of its own. `process` is our side and imports none of it; `worker`, `opened`
and `emit` run over there and import nothing of ours but what is light.
"""
