"""Learning a domain from its images alone: first a text feature, then a null-text UNet (Sec. 3.3)."""
