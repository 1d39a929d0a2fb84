"""Deterministic simulation: the real engine, on simulated time, disk, API and downloads.

::

    python -m tests.simulation --seeds 10000      many worlds; what they covered; which of them broke
    python -m tests.simulation --seed 17 --trace  one of them again, step by step

From one seed everything is drawn: jobs, options, answers, failures, signals, and the steps at which the
process dies or the power goes. After every run of the engine the invariants in ``checks`` must hold.

``world``     time, chance, the trace, and death
``disk``      keeps what was fsynced, and of the rest what a crash may leave
``server``    the API with all its answers; it knows what was really created and charged
``fetcher``   downloads
``scenario``  what is drawn from a seed
``process``   one run of ``batcher.app``, but for the network and the manifest's file
``by_hand``   ``cancel`` and ``resolve``
``mischief``  what a run has to notice before it sends or writes anything
``checks``    the invariants, ``money`` of the budget, ``ends`` of the very end
``story``     one seed from its first run to the last
``mutations`` proof that the simulation would notice
"""
