"""Fine-tuned evaluation: classifiers as child runs."""
