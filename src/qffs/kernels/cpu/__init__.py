"""The same loops in C, compiled by the machine's own compiler."""
