"""Code as users write it, for the type checkers: nothing here is run.

What is right must be understood, what is wrong must be found. Each mistake bears a `type: ignore` that both mypy and
pyright would call unnecessary if they did not see the mistake; `make types` asks them.
"""
