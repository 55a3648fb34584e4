"""Fuzzing of every parser and state machine that bytes from a peer can reach."""
