"""What Segment expects of a client, as cases, run against any SDK that speaks the end-to-end command line.

`cases` says what is sent, what the server does, and what must be seen; `runner` does it; `checks` compares; `adapters`
knows how to start each SDK. `python -m tests.conformance --table` prints the comparison.
"""
