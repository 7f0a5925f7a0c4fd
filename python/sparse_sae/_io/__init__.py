"""Arrays at the door, and files that appear whole or not at all."""
