"""Whether a release is what the fleet's key holders signed: The Update Framework on a device.

`client` follows signed metadata and says what it vouches for; `python -m edge_runtime.update.trust`
is the same as a command. Only a short-lived process imports `client`: python-tuf and its
cryptography cost a supervisor 13 MB for ever.
"""
