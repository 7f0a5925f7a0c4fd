"""Where rows come from: arrays, streams, and activations on disk."""
