"""Plain torch: the methods. Imports nothing of the host."""
