"""What full fine-tuning is made of: settings, model, labelled images, and the run."""
