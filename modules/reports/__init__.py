"""Tables and plots of result files, compared with the papers' figures."""
