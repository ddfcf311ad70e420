"""Commands that install, convert, describe and publish models."""
