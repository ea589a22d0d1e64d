"""What activity code calls."""
