"""The catalogue of the zoo: its tags, the local store, the places of a model's files, and names in general.

It imports neither torch nor timm, and nothing of star_zoo or star_training, both of which are built on it. The command
line therefore lists tags, and checks names, at once.
"""
