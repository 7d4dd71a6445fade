"""Export the model of a result in formats for other programs, with a model card; hand a result over whole."""
