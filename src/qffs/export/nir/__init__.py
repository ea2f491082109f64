"""A network as a graph of NIR: as other tools can read it, or exactly."""
