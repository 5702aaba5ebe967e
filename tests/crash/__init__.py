"""Crashes at every place, each case from a seed; after each, what is in the lake is what plain Python computes."""
