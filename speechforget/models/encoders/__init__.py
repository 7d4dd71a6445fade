"""What classifiers on a pretrained encoder share."""
