"""The functions of `star_training`, one a file; each command of the same purpose is thin over it.

A module imports the dependencies of its function inside it, so that `import star_training` and the parser stay light.
Models are names, paths, or the objects that `pretrain` and `finetune` return.
"""
