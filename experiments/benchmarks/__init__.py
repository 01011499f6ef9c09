"""Comparisons with Keras and PyTorch, as ratios that are measured in turn: `make bench`."""
