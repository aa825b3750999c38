"""How much of one model is a linear combination of others?"""
