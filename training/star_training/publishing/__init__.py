"""Cards, licences, conversion, and uploads to the Hugging Face Hub."""
