"""What `prove_guidance.py` is made of: its plan, its workspaces, trainings beside each other, intervals over seeds."""
