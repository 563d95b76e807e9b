"""The operator's side: publish bundles, roll them out, see what the devices say.

Everything goes through the broker's retained messages, so nothing here keeps state of its own.
"""
