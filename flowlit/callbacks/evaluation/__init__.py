"""What looks at generated images and at flows."""
