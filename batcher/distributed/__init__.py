"""``--dask``: runs one batch on the workers of a Dask cluster.

The caller checks and plans the whole manifest once, and asks for confirmation. Then each worker thread
gets one shard and runs it like any other run, in the shared run directory, with its own segment of the
ledger and its own lock.

Why shards and not leases. Concurrency, rate and budget hold for the whole batch because each shard has a
part of them, and the parts add up. A lease for each job (``distributed.Semaphore``) would cost two round
trips per job, and would exceed the limit if the scheduler stalls: a lease that is not renewed in time is
given to another worker while its request is still running. A shard's part can't be given away: the
process that runs the shard holds its lock, and the kernel frees it only when the process ends.

If a worker dies, Dask starts its shard on another one. The new worker waits for the lock, reads the
ledger and resumes; a POST that was in flight is unknown, as after any kill. A worker that only lost its
connection still holds its lock. Therefore a shard that doesn't hear from the caller for ``SILENCE_S``
stops by itself, and its replacement waits longer than that for the lock. A shard that never heard from
the caller buys nothing.

Messages carry options, counts (once a second) and text, never a token: workers read the token from their
own environment. Errors travel as a message and the name of one of our classes, because unpickling an
exception depends on its constructor.

Refused: ``-c auto`` (the shards would mistake each other's load for the API's limit) and ``--canary`` (a
barrier across all shards).

``--sandbox``: each process embeds its own server, and all of them share one state file in the run
directory (see ``sandbox/journal.py``). If a process dies, no request is lost or bought twice.
"""
