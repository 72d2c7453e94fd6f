"""What the documentation's website is made of beside its pages."""
