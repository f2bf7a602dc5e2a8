"""Speeds and chaos; scripts, not part of the package."""
