"""`torch.fx` passes: a graph in, a new graph out."""
