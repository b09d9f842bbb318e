"""The `rgunit` command: one module a command group, no logic of its own.

The one idea: importing this package costs nothing; what a command needs is imported when it runs.
"""
