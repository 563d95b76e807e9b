"""Take weights out of an encoder: zeros where a kernel skips them, whole parts where none does."""
