"""The loop of every stage, and what a run keeps."""
