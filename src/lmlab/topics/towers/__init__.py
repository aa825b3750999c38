"""If two models share one prediction, which tokens does each take?"""
