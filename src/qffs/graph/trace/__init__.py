"""Tracing: read a model of PyTorch as a graph of operators."""
