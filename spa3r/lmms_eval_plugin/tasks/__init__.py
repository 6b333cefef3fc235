"""No tasks of our own: lmms-eval looks for the package."""
