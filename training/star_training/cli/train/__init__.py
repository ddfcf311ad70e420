"""Commands that train: quickstart, pretrain, finetune, detect, reproduce."""
