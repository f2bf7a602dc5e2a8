"""The durable record of owners, resources and events.

schema.py   the tables, as numbered migrations
store.py    the one place that reads and writes them
place.py    the state directory: where it is, and that it is the user's alone
"""
