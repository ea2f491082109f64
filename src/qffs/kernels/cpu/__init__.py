"""The loops over neurons and steps in C, compiled by the machine's own compiler: start to read in layer.c."""
