"""COCO sets: reading with checks, training examples, augmentation, conversion."""
