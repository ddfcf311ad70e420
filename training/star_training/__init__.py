"""Trains, evaluates and publishes star_zoo's models. It imports star_zoo; star_zoo never imports it."""
