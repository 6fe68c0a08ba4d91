"""The commands of the loadsplit program that are more than a start of a server."""
