"""Models to share: a run as a folder or one file that others can read, and such a folder read back."""
