"""The process that owns containers: one thread, one event loop, the true parent of every process it started."""
