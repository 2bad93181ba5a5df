"""What is behind `compat`."""
