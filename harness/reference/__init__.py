"""Committed results as a reference: is a run like the declared ones, and are results what they claim to be?"""
