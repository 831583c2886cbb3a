"""Tables and plots of result files, beside the papers' figures."""
