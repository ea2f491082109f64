"""Passes over `torch.fx` graphs: read a model, decide about every node, and change the graph."""
