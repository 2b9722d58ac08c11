"""A small renderer of towns seen from the air, with exact building outlines.

Pipeline: `style` says what a town is made of, `layout` places roads, houses and trees,
`roofs` gives each house a surface, `paint` lays colours and heights on a fine grid, `render`
lights it. Coordinates are metres, x to the east and y down the picture, from its top left
corner. Random numbers come from one seeded generator, in a fixed order.
"""
