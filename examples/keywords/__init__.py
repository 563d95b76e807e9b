"""Ten spoken words, in voices that the network never heard: an example of sound."""
