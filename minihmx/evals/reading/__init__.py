"""How a reply is read: which answer it settles on, and whether a second reply leaves it."""
