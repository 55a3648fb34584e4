"""Pure decisions on tunnels: control messages, the tracker, backoff, liveness."""
