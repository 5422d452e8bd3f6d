"""A model at work: predictions and saliency maps, whatever file it is in."""
