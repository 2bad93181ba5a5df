"""The relay: a client that hands over, the Redis engine on real servers, and faults in both."""
