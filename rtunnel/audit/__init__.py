"""Who did what through a proxy: a closed set of events, and the file they go to."""
