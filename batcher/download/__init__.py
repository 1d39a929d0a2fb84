"""From a URL to a file that is whole: stream, verify, make durable.

``downloader`` is the way in; the rest is one decision a module: ``trust`` (which hosts and
addresses), ``answer`` (what headers mean), ``patience`` (how long to go on trying), ``sink``
(bytes to disk), ``transfer`` (one attempt).
"""
