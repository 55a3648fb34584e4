"""``rtunnel demo``: the whole of rtunnel on one machine, in under half a minute."""
