"""From a URL to a complete file: stream, verify, make durable.

``downloader`` is the entry point; each other module makes one decision: ``trust`` (which hosts and
addresses), ``answer`` (what headers mean), ``patience`` (how long to retry), ``sink`` (bytes to
disk), ``transfer`` (one attempt).
"""
