"""Manifests: from text to rows to jobs. Every problem is found before the first job is bought.

``read`` opens a file of any format, ``walk`` follows ``from`` to other files, ``expand`` turns rows into
drafts (defaults, matrix, templates, repeat), ``check`` turns drafts into jobs by the model's schema.
``columns`` checks most rows of a table by column, which is faster and makes the same jobs.
"""
