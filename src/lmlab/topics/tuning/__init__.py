"""Which settings of training are best for a text and a budget?"""
