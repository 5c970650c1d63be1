"""A laboratory for one question: what does Batch Normalization really do?"""
