"""Stock SSH to machines behind somebody else's firewall.

An *agent* behind the firewall dials out to *proxies* and keeps tunnels open; people
with a stock SSH client go through a proxy and a tunnel to the servers on the other
side. ``docs/architecture.md`` shows the floors of the program and which module does
what.
"""

__version__ = "0.1.0"
