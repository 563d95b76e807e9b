"""Teach a smaller network, or one that lost parts, to answer as the original does."""
