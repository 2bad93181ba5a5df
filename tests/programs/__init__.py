"""Small programs that the tests run as processes of their own; each is told by its arguments what to do.

They find the receiving end in the environment's `SEGMENT_HOST`, and know nothing of the tests around them.
"""
