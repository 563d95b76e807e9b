"""How a device comes to run the bundle that its desired state names, and goes back if it must."""
