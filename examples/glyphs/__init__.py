"""Letters and digits in fonts that the network never saw: an example of pictures."""
