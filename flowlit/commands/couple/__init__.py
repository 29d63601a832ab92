"""flowlit couple: carry noise through a teacher and write the pairs."""
