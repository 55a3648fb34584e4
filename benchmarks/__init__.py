"""How fast, beside OpenSSH and asyncssh in the same run: ``make bench``."""
