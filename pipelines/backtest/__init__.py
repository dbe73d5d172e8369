"""History sent through the system again, as if it happened now."""
