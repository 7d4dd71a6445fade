"""The record of an erasure: what was asked, made, measured and removed, as data that anybody can check."""
