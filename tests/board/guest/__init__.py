"""What runs on the emulated board besides the product."""
