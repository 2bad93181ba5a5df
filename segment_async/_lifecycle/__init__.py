"""Loops, forks, signals, exit."""
