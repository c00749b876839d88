import telme  # noqa: F401 - switches telemetry off before any library is imported that has some
