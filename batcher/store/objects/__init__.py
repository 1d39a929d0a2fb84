"""Storage for finished files outside this machine's disk: S3, Google Cloud Storage, Azure, a folder.

``opening`` turns a URL into a :class:`~batcher.store.objects.interface.Bucket`: ``remote`` is the one in
object storage (it needs the extra ``s3``), ``folder`` the one in a plain folder. ``failures``
translates a store's errors into ours.
"""
