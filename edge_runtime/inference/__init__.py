"""Running a bundle: engines behind one protocol, declared steps around them, a self-test."""
