"""The package shown at work: on a language model (`language_model`), and where the truth is known (`ground_truth`)."""
