"""`edge-agent doctor`: what of machine, device and bundle would work here, and why not."""
