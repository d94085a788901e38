"""What is measured of images: formulas on features, with no models, no files and no Ray in them."""
