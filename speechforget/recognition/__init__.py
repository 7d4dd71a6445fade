"""Speech recognition by connectionist temporal classification (CTC): what a model says of a transcript."""
