"""From what a user has to a frozen graph; nothing runs unasked."""
