"""From comparisons to what people read: terminal, picture, tables of many runs."""
