"""The options of a run: their table, the facts that they fill, and where their values come from.

``table`` has the rows, ``kinds`` the types of values, ``facts`` the structs that the rest of the package
reads, ``command`` the commands that we print.
"""
