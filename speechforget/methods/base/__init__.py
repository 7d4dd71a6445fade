"""The base class of methods, and the driver that runs a method."""
