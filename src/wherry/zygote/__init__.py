"""The warm process that forks: functions imported beforehand, each run in a child of its own on request."""
