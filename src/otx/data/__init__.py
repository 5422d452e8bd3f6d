"""From a folder of images to batches: scan, split, decode, sample."""
