"""Questions put to a model that are no training and no benchmark: is it a usable judge?"""
