"""Trim a tokenizer and its embedding, together, to the words of a domain."""
