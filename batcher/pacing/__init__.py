"""When to try, poll and admit: pure decisions on numbers, a clock reading and an rng.

Nothing here sleeps or reads a clock: the engine passes ``now_s`` (monotonic seconds) in and sleeps for
what it gets back, so a day of pacing is tested in no time.
"""
