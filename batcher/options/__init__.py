"""What a user may ask of a run: the table of options, the facts that they fill, where values come from.

``table`` has the rows, ``kinds`` the types of values, ``facts`` what the rest of the package reads,
``command`` the commands that we print.
"""
