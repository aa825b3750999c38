"""Can a model learn without a softmax over its vocabulary, and what does it cost or save?"""
