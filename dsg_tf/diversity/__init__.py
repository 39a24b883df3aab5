"""How samples differ from each other, in numbers and pictures."""
