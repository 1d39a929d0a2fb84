"""``--dask``: one batch shared out over the workers of a Dask cluster.

The caller checks and plans the whole manifest once, and asks. Then each worker thread gets one shard and
runs it the ordinary way, in the shared run directory, with a segment of the ledger and a lock of its
own.

Why shares and not leases. Cap, rate and budget hold for the whole batch because each shard carries a
part of them, and the parts add up. A lease for each job (``distributed.Semaphore``) would cost two round
trips a job, and would lose the cap where the scheduler stalls: a lease that is not renewed in time is
given to somebody else while its request still runs. A shard's part can't be given away: whoever runs the
shard holds its lock, which the kernel frees only with the process.

What a death costs. Dask starts the shard of a dead worker on another one. That waits for the lock, reads
what the ledger says, and goes on; a POST that was under way is unknown, as after any kill. A worker that
merely lost the cluster goes on holding its lock: so a shard that hears nothing of the caller for
``SILENCE_S`` winds itself up, and the one that replaces it is more patient than that. A shard that never
heard of the caller buys nothing.

What travels. Options, counts once a second, and words; never a token: workers take theirs from their own
environment. Errors come back as words and a class of ours, since an exception's pickle needs its
constructor to agree.

Refused: ``-c auto`` (N searches for one limit would take each other for the limit), ``--canary`` (a
barrier across all shards).

``--sandbox``: each process embeds a server of its own, and all of them share one state file in the run
directory (see ``sandbox/journal.py``). So whichever process dies, no request is lost or bought twice.
"""
