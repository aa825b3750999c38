"""How surprising is each word or token of a text?"""
