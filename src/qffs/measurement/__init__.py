"""Measurements of networks on images: accuracy by step, the four noises, and the cost of an inference."""
