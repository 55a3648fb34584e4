"""The rtunnel command."""
