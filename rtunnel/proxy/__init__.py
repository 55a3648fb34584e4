"""The process that accepts tunnels and clients, and joins them."""
