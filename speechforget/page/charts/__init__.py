"""Data of the charts of a page, made from score tables and from the numbers of results."""
