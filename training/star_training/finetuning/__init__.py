"""Full fine-tuning: settings, model, labelled images, and the run."""
