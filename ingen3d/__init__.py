"""In-domain 3D generation: from a prompt to a textured mesh."""
