"""The host side: a recipe and a device profile become a bundle, with the evidence."""
