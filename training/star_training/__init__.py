"""How the models are made and measured. Imports star_zoo; star_zoo never imports this."""
