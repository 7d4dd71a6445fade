"""Sound files, their decoding, and the cache of decoded audio."""
