"""The other end: the server that counts messages, and the programs that send work to the client under test.

Each one runs in a process of its own, on a core of its own, and uses only the standard library.
"""
