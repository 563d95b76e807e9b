"""The device's two processes: a supervisor that updates and reports, a worker that serves."""
