"""Weights & Biases as a mirror of files: what it shows, how it is uploaded, and whether it arrived."""
