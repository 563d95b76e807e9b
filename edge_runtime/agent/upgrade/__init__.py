"""The agent's own update: a new agent through the same signed channel, and back if it is no good.

Two sides that do not believe each other. The agent, an unprivileged user, fetches (`host`,
`updates`) and asks (`request`). A helper, root, without a network, started from the package's own
tree (`helper`, `python -m edge_runtime.agent.upgrade`), verifies everything itself (`verified`),
unpacks it into a tree of its own (`releases`), flips a link, watches, and flips it back. Its states
are a table (`states`), kept in a journal (`record`) that the agent reads as the answer. Which tree
is started is decided by `choice`, which imports nothing of ours.
"""
