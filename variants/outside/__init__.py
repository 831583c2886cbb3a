"""Methods from elsewhere: their files, their options, and where in them a mistake is."""
