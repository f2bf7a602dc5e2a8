"""The durable record of owners, resources and events.

schema.py    the tables, as numbered migrations
rows.py      rows as they are handed out
changes.py   each change, within a transaction
database.py  the file: opened, migrated, set aside, noticed when it is another
look.py      what can be asked
store.py     the ledger to read and write at once
reading.py   the ledger for who only looks, and changes nothing
writer.py    what one owner records of its own, without anybody waiting
prune.py     what ended long ago is forgotten
proof.py     locks that prove that somebody lives
place.py     the state directory: where it is, and that it is the user's alone
logs.py      the output of resources, read while it grows
rotation.py  a log is kept small
"""
