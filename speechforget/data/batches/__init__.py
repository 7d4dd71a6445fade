"""From row numbers to batches of waveforms."""
