"""Experts that play for the camera."""
