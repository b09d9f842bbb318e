"""How a translation is judged: an attribute classifier, distances with intervals, a network never trained here.

Everything is measured on pairs that copying cannot win (`protocol`), for every arm alike (`evaluate`).
"""
