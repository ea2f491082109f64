"""Networks as graphs of NIR: as an approximation that other tools can read, or exactly."""
