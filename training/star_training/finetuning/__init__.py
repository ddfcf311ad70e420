"""What full fine-tuning is made of: its settings, its model, its labelled images. The loop is `star_training.finetuning.run`."""
