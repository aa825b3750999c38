"""The arrow of time: is text easier to predict forwards than backwards?"""
