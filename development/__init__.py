"""What `dev.py` does: the environment, the hosts, a server to talk to, checks, the demo. Not part of what users install."""
