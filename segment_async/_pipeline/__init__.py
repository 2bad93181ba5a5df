"""From the queue to the outcome."""
