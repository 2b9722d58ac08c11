"""From a scene or picture to features."""
