"""Data of charts, made from score tables and from the numbers of results; pages and trackers draw it."""
