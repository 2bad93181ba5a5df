"""What `demo.py` needs beside the client: the endpoint in a process of its own, and something to look at."""
