"""What a dead owner left, and its end.

settle.py    settle one's own owner's estate, or sweep all of them
foresee.py   which estates there are, and what a sweep would do
standing.py  whether an owner lives, is dead, or is elsewhere
claims.py    who settles an estate
settling.py  some estates settled together: decide, look once, end in one pass, record in one transaction
case.py      one thing of an estate meanwhile
receipts.py  what guards said of ends, as far as it makes sense
outcome.py   what came of it, in words
strays.py    what an app started beside tether
__main__.py  what a hub has done when its owner has died
"""
