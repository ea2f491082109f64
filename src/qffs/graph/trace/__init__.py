"""A model of PyTorch as a graph of operators."""
