"""Notebooks over run folders, and the figures that they share."""
