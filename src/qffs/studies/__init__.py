"""Studies, which need many runs: a comparison of methods on one network, and the tables and figures of the paper."""
