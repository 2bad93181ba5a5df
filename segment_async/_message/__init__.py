"""Turns the arguments of a call into JSON bytes: build, context, encode; ids and timestamps."""
