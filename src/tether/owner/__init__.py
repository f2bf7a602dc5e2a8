"""One app's resources: from the first start to the last end.

owner.py     the owner
resource.py  what a user holds of a resource
roster.py    the registered plugins
plugin.py    a base class for plugins, and what keeps an object from being one
budget.py    what it may spend on what it rents
shutdown.py  in which order resources end
"""
