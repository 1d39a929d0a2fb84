"""Manifests: from text to rows to jobs. Every problem is found before the first job is bought.

``read`` opens a file of any format, ``walk`` follows ``from`` to other files, ``expand`` turns rows into
drafts (defaults, matrix, templates, repeat), ``check`` turns drafts into jobs by the model's schema.
Most rows of a table take a shorter way to the same jobs: ``columns`` checks them by column.
"""
