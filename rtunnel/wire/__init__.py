"""SSH bytes in, values out: the pure floor of the SSH layer. No Twisted here."""
