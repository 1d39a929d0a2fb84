"""The table of options, how their values are spelled, and where values come from.

``table`` has the rows, ``kinds`` the types of values, ``command`` the commands that we print.
"""
