"""Measures: distances between sets of images, and what the kiln's judge reads off them."""
