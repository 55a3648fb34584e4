"""One module per measure: what is done once, to one system, in one round."""
