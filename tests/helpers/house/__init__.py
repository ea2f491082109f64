"""The plan of the house: what imports what, what a run enters, and where tests lie, read from the sources."""
