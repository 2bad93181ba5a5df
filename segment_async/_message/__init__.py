"""From the arguments of a call to JSON bytes: build, encode, bound context."""
