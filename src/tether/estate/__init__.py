"""What a dead owner left, and its end.

settle.py  settle one estate, or sweep all of them
"""
