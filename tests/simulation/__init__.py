"""The whole client under a virtual clock, with seeded users, a seeded network and a checker of the law."""
