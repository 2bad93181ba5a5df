"""The parts of `demo.py` besides the client: the endpoint in a child process, and the display."""
