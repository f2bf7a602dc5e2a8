"""What a dead owner left, and its end.

settle.py    settle one estate, or sweep all of them
__main__.py  what a hub has done when its owner has died
"""
