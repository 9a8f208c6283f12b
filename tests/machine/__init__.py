"""Several jobs at once, driven by Hypothesis in every order, beside a small account of what was said to whom."""
