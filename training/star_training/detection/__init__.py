"""Object detection on a backbone: data sets with boxes, Faster R-CNN, the loop that trains it, and average precision.

`star-zoo detect` runs a recipe of `recipes`. Unlike the protocols for frozen models, it trains the backbone too.
"""
