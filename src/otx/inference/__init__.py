"""A model at work: predictions and saliency maps from any kind of model file."""
