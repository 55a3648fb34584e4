"""Fuzzing of the parsers and state machines that bytes from a peer reach."""
