"""What is done with a trained model: its file, exporting it, running it, measuring it."""
