"""Audits of a method: complementary pairs of models, and what they show."""
