"""The process inside a cluster that dials out and serves dials."""
